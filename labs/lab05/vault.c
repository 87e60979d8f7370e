/* The second riddle of lab05, which compares nothing that could be seen as a whole: each letter is mixed
 * with all before it. It is compiled in the guest while the lab is built, and this source does not stay
 * there. */
#include <stdio.h>
#include <string.h>

static const unsigned char lock[] = {
    0x2b, 0xe3, 0xc4, 0xd1, 0xba, 0x0d, 0x29, 0x86, 0x9c, 0x93, 0x76, 0x22, 0xd7, 0x50, 0x65, 0x60,
    0x19, 0x00, 0x3e, 0x0d, 0x6d, 0x1a, 0xa5, 0xe5, 0xb2, 0x11, 0x23, 0x98, 0xc2, 0x05, 0x26, 0xab,
    0x08, 0xab, 0x4f, 0xf7, 0x42, 0xad,
};

int main(int argc, char **argv)
{
    unsigned char state = 0x42, wrong = 0;

    if (argc != 2 || strlen(argv[1]) != sizeof lock) {
        puts("This key does not fit.");
        return 1;
    }
    for (size_t i = 0; i < sizeof lock; i++) {
        unsigned char letter = argv[1][i];
        wrong |= ((letter ^ state) + 7) ^ lock[i];
        state = state * 5 + letter;
    }
    puts(wrong ? "This key fits, but does not turn." : "The vault is open. Its key was the flag.");
    return wrong != 0;
}
