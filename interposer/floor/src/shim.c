/* What newer C libraries made functions of their own, in terms of what every one has. All of it is hidden: it is
 * linked into the object that needs it and seen by nobody else. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's struct stat is the C library's on both 64-bit architectures. Not <sys/stat.h>: it would declare the
 * same names with types that do not matter here. */
int fstat(int fd, void *out) { return (int)syscall(SYS_fstat, fd, out); }
int fstat64(int fd, void *out) { return (int)syscall(SYS_fstat, fd, out); }
int fstatat(int dir, const char *path, void *out, int flags) {
    return (int)syscall(SYS_newfstatat, dir, path, out, flags);
}
int fstatat64(int dir, const char *path, void *out, int flags) {
    return (int)syscall(SYS_newfstatat, dir, path, out, flags);
}
int stat(const char *path, void *out) { return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0); }
int stat64(const char *path, void *out) { return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0); }
int lstat(const char *path, void *out) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}
int lstat64(const char *path, void *out) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}

/* Asked for weakly, but the linker notes their versions (2.28, 2.30) as needed all the same. */
int statx(int dir, const char *path, int flags, unsigned mask, void *out) {
    return (int)syscall(SYS_statx, dir, path, flags, mask, out);
}
int gettid(void) { return (int)syscall(SYS_gettid); }

/* Since 2.35 the statically linked unwinder asks the loader for an object's unwind table by this function; before,
 * it walked the objects itself, as this does. */
struct found {
    unsigned long long flags;
    void *start, *end;
    struct link_map *map;
    void *eh_frame;
    unsigned long long reserved[7];
};
struct search {
    ElfW(Addr) pc;
    struct found *found;
};

static int look(struct dl_phdr_info *info, size_t size, void *data) {
    struct search *search = data;
    const ElfW(Phdr) *eh_frame = NULL;
    ElfW(Addr) start = ~(ElfW(Addr))0, end = 0;
    int inside = 0;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        ElfW(Addr) from = info->dlpi_addr + header->p_vaddr, to = from + header->p_memsz;
        if (header->p_type == PT_GNU_EH_FRAME)
            eh_frame = header;
        if (header->p_type != PT_LOAD)
            continue;
        inside |= from <= search->pc && search->pc < to;
        start = from < start ? from : start;
        end = to > end ? to : end;
    }
    if (!inside || eh_frame == NULL)
        return 0;
    *search->found = (struct found){0, (void *)start, (void *)end, NULL,
                                    (void *)(info->dlpi_addr + eh_frame->p_vaddr), {0}};
    return 1;
}

int find_object(void *pc, struct found *found) __asm__("_dl_find_object");

int find_object(void *pc, struct found *found) {
    struct search search = {(ElfW(Addr))pc, found};
    return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}

/* A program's start file names this function in the version of the machine it was linked on (the linker's --wrap
 * sends it here). The older version of it leaves the initialisers to the program. */
extern void (*__preinit_array_start[])(int, char **, char **) __attribute__((weak, visibility("hidden")));
extern void (*__preinit_array_end[])(int, char **, char **) __attribute__((weak, visibility("hidden")));
extern void (*__init_array_start[])(int, char **, char **) __attribute__((weak, visibility("hidden")));
extern void (*__init_array_end[])(int, char **, char **) __attribute__((weak, visibility("hidden")));
#if defined(__x86_64__)
__asm__(".symver old_libc_start_main, __libc_start_main@GLIBC_2.2.5");
#else
__asm__(".symver old_libc_start_main, __libc_start_main@GLIBC_2.17");
#endif
typedef int Main(int, char **, char **);
extern __attribute__((visibility("default"))) int old_libc_start_main(Main *, int, char **, Main *, void (*)(void),
                                                                      void (*)(void), void *);

static int initialise(int count, char **arguments, char **environment) {
    for (size_t i = 0; i < (size_t)(__preinit_array_end - __preinit_array_start); i++)
        __preinit_array_start[i](count, arguments, environment);
    for (size_t i = 0; i < (size_t)(__init_array_end - __init_array_start); i++)
        __init_array_start[i](count, arguments, environment);
    return 0;
}

int __wrap___libc_start_main(Main *program, int count, char **arguments, Main *init, void (*fini)(void),
                             void (*loader_fini)(void), void *stack) {
    return old_libc_start_main(program, count, arguments, init != NULL ? init : initialise, fini, loader_fini, stack);
}
