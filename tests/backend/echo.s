# A guest of 512 bytes for tests: a boot sector that clears the screen, draws a bar of the sixteen
# colours and a line of text, and then shows what is typed.
#
#   as --32 echo.s -o echo.o && ld -m elf_i386 --oformat binary -Ttext 0x7c00 echo.o -o echo
    .code16
    .globl _start
_start:
    mov $0x0003, %ax            # 80x25 text, cleared
    int $0x10
    mov $0x0100, %ax            # no cursor: a blinking one makes no two pictures alike
    mov $0x2000, %cx
    int $0x10

    mov $0xb800, %ax            # the bar, on line 2
    mov %ax, %es
    mov $320, %di
    mov $0x00db, %ax            # a full block; its colour is the upper byte
colour:
    mov $5, %cx
    rep stosw
    inc %ah
    cmp $16, %ah
    jb colour

    xor %ax, %ax
    mov %ax, %ds
    mov $text, %si
next:
    lodsb
    test %al, %al
    jz echo
    call show
    jmp next

echo:
    xor %ah, %ah                # waits for a key
    int $0x16
    call show
    jmp echo

show:
    mov $0x0e, %ah
    xor %bx, %bx
    int $0x10
    ret

text:
    .asciz "Type: "
    .org 510
    .word 0xaa55
