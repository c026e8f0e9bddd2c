/* cli_program.c - finding the program, and the rules of execve(2) and ld.so(8) about what is preloaded. */
#include "cli_program.h"
#include "cli.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LINKER_NAME "ld-linux-x86-64.so.2"
#define SHEBANG_BYTES 256 /* the kernel reads no further (BINPRM_BUF_SIZE) */
#define SHEBANG_DEPTH 5

static int can_execute(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EACCES;
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : -errno;
}

/* As execvp: names with a slash are taken as they are; a match that may not be executed is remembered while the search
 * goes on. */
static int find_program(const char *name, char *ret_path, size_t path_bytes)
{
    if (*name == 0)
        return -ENOENT;
    if (strchr(name, '/')) {
        if ((size_t)snprintf(ret_path, path_bytes, "%s", name) >= path_bytes)
            return -ENAMETOOLONG;
        return can_execute(name);
    }
    const char *search = getenv("PATH");
    if (!search)
        search = "/bin:/usr/bin";
    bool denied = false;
    for (;;) {
        int len = (int)strcspn(search, ":");
        if ((size_t)snprintf(ret_path, path_bytes, "%.*s%s%s", len, search, len ? "/" : "", name) < path_bytes) {
            int error = can_execute(ret_path);
            if (error == 0)
                return 0;
            denied |= error == -EACCES;
        }
        if (!search[len])
            return denied ? -EACCES : -ENOENT;
        search += len + 1;
    }
}

/* Would the kernel start it in secure mode (AT_SECURE), in which ld.so ignores preloads? Rule: cap_bprm_creds_from_file. */
static const char *secure_reason(int fd)
{
    struct stat st;
    struct statvfs fs;
    if (getuid() != geteuid() || getgid() != getegid() || getauxval(AT_SECURE))
        return "endgame itself runs with another effective user or group, so the system will not preload into it; start "
               "endgame as that user";
    if (fstat(fd, &st) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return NULL;
    if (fstatvfs(fd, &fs) == 0 && (fs.f_flag & ST_NOSUID))
        return NULL;
    if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
        return "it is set-user-ID, so the system will not preload into it; run it as its owner, or a copy without the bit";
    if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getgid())
        return "it is set-group-ID, so the system will not preload into it; run a copy without the bit";
    if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
        return "it has file capabilities, so the system will not preload into it; run a copy without them";
    return NULL;
}

static const char *elf_reason(int fd, const char *path, const char *head, ssize_t head_bytes)
{
    Elf64_Ehdr elf;
    if (head_bytes < (ssize_t)sizeof elf)
        return "it is cut short: not a whole ELF executable";
    memcpy(&elf, head, sizeof elf);
    if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_machine != EM_X86_64)
        return "it is not a 64-bit x86-64 executable; use a build for this architecture";
    if ((elf.e_type != ET_EXEC && elf.e_type != ET_DYN) || elf.e_phentsize != sizeof(Elf64_Phdr))
        return "it is not an ELF executable";
    for (int i = 0; i < elf.e_phnum; i++) {
        Elf64_Phdr segment;
        if (pread(fd, &segment, sizeof segment, (off_t)(elf.e_phoff + i * sizeof segment)) != (ssize_t)sizeof segment)
            return "it is cut short: not a whole ELF executable";
        if (segment.p_type != PT_INTERP)
            continue;
        char linker[PATH_MAX];
        if (segment.p_filesz == 0 || segment.p_filesz > sizeof linker ||
            pread(fd, linker, segment.p_filesz, (off_t)segment.p_offset) != (ssize_t)segment.p_filesz)
            return "it is cut short: not a whole ELF executable";
        linker[segment.p_filesz - 1] = 0;
        const char *base = strrchr(linker, '/');
        if (strcmp(base ? base + 1 : linker, LINKER_NAME) != 0)
            return "it is not linked against glibc (" LINKER_NAME "); use a build for glibc";
        return NULL;
    }
    /* The linker itself, run as a command, has no interpreter and preloads all the same. */
    char *real = realpath(path, NULL);
    const char *base = real ? strrchr(real, '/') : NULL;
    bool is_linker = base && strcmp(base + 1, LINKER_NAME) == 0;
    free(real);
    return is_linker ? NULL : "it is statically linked, so nothing can be loaded into it; use a dynamically linked build";
}

/* The interpreter named by a #! line, in place; NULL if the line names none. */
static char *shebang_interpreter(char *head)
{
    char *path = head + 2 + strspn(head + 2, " \t");
    path[strcspn(path, " \t\n")] = 0;
    return *path ? path : NULL;
}

static int check_executable(const char *name, const char *path, int depth)
{
    char head[SHEBANG_BYTES + 1];
    if (depth > SHEBANG_DEPTH)
        return cli_fail(CLI_EXIT_CANNOT_RUN, "cannot run %s: too many interpreters, one #! leads to the next", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cli_fail(CLI_EXIT_CANNOT_RUN, "cannot run %s: %s cannot be read to see what it is (%s)", name, path,
                        strerror(errno));
    ssize_t len = pread(fd, head, sizeof head - 1, 0);
    int status = 0;
    const char *reason = NULL;
    if (len < 0) {
        reason = strerror(errno);
    } else if (len >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0) {
        reason = elf_reason(fd, path, head, len);
        if (!reason)
            reason = secure_reason(fd);
    } else if (len >= 2 && head[0] == '#' && head[1] == '!') {
        head[len] = 0;
        char *interpreter = shebang_interpreter(head);
        int error = interpreter ? can_execute(interpreter) : 0;
        if (!interpreter) /* the kernel does not know that, either */
            status = check_executable(name, "/bin/sh", depth + 1);
        else if (error)
            status = cli_fail(CLI_EXIT_CANNOT_RUN, "cannot run %s: its interpreter %s: %s", name, interpreter, strerror(-error));
        else
            status = check_executable(name, interpreter, depth + 1);
    } else {
        /* What the kernel does not know, execvp gives to the shell. */
        status = check_executable(name, "/bin/sh", depth + 1);
    }
    close(fd);
    if (reason)
        status = cli_fail(CLI_EXIT_CANNOT_RUN, "cannot run %s%s%s: %s", name, strcmp(name, path) ? ", that is " : "",
                          strcmp(name, path) ? path : "", reason);
    return status;
}

int cli_program_find(const char *name, char *ret_path, size_t path_bytes)
{
    return find_program(name, ret_path, path_bytes);
}

int cli_program_check(const char *name)
{
    char path[PATH_MAX];
    int error = find_program(name, path, sizeof path);
    if (error == -ENOENT || error == -ENOTDIR)
        return cli_fail(CLI_EXIT_NOT_FOUND, "cannot run %s: %s", *name ? name : "''",
                        strchr(name, '/') ? strerror(-error) : "no such command in PATH");
    if (error)
        return cli_fail(CLI_EXIT_CANNOT_RUN, "cannot run %s: %s", name,
                        error == -EACCES ? "it is not an executable file, or may not be executed by this user"
                                         : strerror(-error));
    return check_executable(name, path, 0);
}
