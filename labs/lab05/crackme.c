/* The first riddle of lab05. It is compiled in the guest while the lab is built, and this source
 * does not stay there. */
#include <stdio.h>
#include <string.h>

static const unsigned char hidden[] = {
    0x3c, 0x36, 0x3b, 0x3d, 0x21, 0x3e, 0x33, 0x29, 0x3b, 0x29, 0x29, 0x3f, 0x37, 0x38, 0x36, 0x3f, 0x27,
};

int main(int argc, char **argv)
{
    char secret[sizeof hidden + 1] = "";

    for (size_t i = 0; i < sizeof hidden; i++)
        secret[i] = hidden[i] ^ 0x5a;
    if (argc == 2 && strcmp(argv[1], secret) == 0) {
        puts("Yes. You read the machine's mind.");
        return 0;
    }
    puts("No.");
    return 1;
}
