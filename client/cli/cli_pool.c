/* cli_pool.c - the private directory and the pool file. */
#include "cli_pool.h"
#include "cli.h"
#include "cli_stat.h"
#include "client/pager/eg_hints.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define DIR_PREFIX "endgame-"

static void each_below(const char *parent, void (*visit)(struct cli_pool *pool, void *arg), void *arg)
{
    DIR *dir = opendir(parent);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct cli_pool pool = {.fd = -1};
        struct stat st;
        uint64_t magic = 0;
        if (strncmp(entry->d_name, DIR_PREFIX, sizeof DIR_PREFIX - 1) != 0 ||
            (size_t)snprintf(pool.dir, sizeof pool.dir, "%s/%s", parent, entry->d_name) >= sizeof pool.dir)
            continue;
        snprintf(pool.path, sizeof pool.path, "%s/pool", pool.dir);
        pool.fd = open(pool.path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (pool.fd < 0)
            continue;
        /* The magic is written last, when the run has its lock: one that is just starting is safe. */
        if (fstat(pool.fd, &st) == 0 && st.st_uid == geteuid() && st.st_size == EG_POOL_FILE_BYTES &&
            pread(pool.fd, &magic, sizeof magic, 0) == sizeof magic && magic == EG_POOL_MAGIC)
            visit(&pool, arg);
        cli_pool_close(&pool);
    }
    closedir(dir);
}

/* Removes what a run left whose keeper was killed with it: a pool that neither run nor keeper holds (flock), nor any process
 * of the program. */
static void sweep(struct cli_pool *pool, void *arg)
{
    (void)arg;
    if (flock(pool->fd, LOCK_EX | LOCK_NB) == 0 && !cli_pool_in_use(pool))
        cli_pool_remove(pool);
}

#define N_PARENTS 3
static void list_parents(const char **ret_parents)
{
    ret_parents[0] = getenv("XDG_RUNTIME_DIR");
    ret_parents[1] = "/dev/shm";
    ret_parents[2] = "/tmp";
}

void cli_pool_each(void (*visit)(struct cli_pool *pool, void *arg), void *arg)
{
    const char *parents[N_PARENTS];
    list_parents(parents);
    for (int i = 0; i < N_PARENTS; i++)
        if (parents[i] && *parents[i] && (i == 0 || !parents[0] || strcmp(parents[0], parents[i]) != 0))
            each_below(parents[i], visit, arg);
}

/* Makes directory and file below `parent`. Returns 0 or -errno, and nothing is left then. */
static int create_below(const char *parent, struct cli_pool *pool)
{
    int len = snprintf(pool->dir, sizeof pool->dir, "%s/" DIR_PREFIX "XXXXXX", parent);
    /* The socket's name must fit an address; LD_PRELOAD knows no quoting, should the library be linked from here. */
    if (len < 0 || (size_t)len + sizeof "/" CLI_POOL_SOCKET > sizeof(((struct sockaddr_un *)0)->sun_path) ||
        (size_t)len >= sizeof pool->dir || parent[0] != '/' || strpbrk(parent, " :\n"))
        return -EINVAL;
    each_below(parent, sweep, NULL);
    if (!mkdtemp(pool->dir))
        return -errno;
    snprintf(pool->path, sizeof pool->path, "%s/pool", pool->dir);
    snprintf(pool->socket, sizeof pool->socket, "%s/" CLI_POOL_SOCKET, pool->dir);
    pool->fd = open(pool->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    /* The folder is for this user alone; but who has the file may open it anew when it has become another one. */
    if (pool->fd >= 0 && fchmod(pool->fd, 0666) != 0) {
        close(pool->fd);
        pool->fd = -1;
    }
    /* Held by this process and the keeper, which inherits it, until both have ended. */
    if (pool->fd >= 0 && flock(pool->fd, LOCK_SH) != 0) {
        close(pool->fd);
        pool->fd = -1;
    }
    int error = pool->fd < 0 || ftruncate(pool->fd, EG_POOL_FILE_BYTES) != 0 ? errno : 0;
    if (error == 0)
        error = posix_fallocate(pool->fd, 0, EG_POOL_ROWS_OFFSET + EG_POOL_ROWS_READY * EG_POOL_ROW_BYTES);
    if (error == 0)
        error = posix_fallocate(pool->fd, EG_POOL_TEXTS_OFFSET, EG_POOL_TEXTS_BYTES);
    if (error == 0) {
        void *map = mmap(NULL, EG_POOL_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd, 0);
        if (map != MAP_FAILED) {
            pool->map = map;
            return 0;
        }
        error = errno;
    }
    cli_pool_remove(pool);
    cli_pool_close(pool);
    return -error;
}

int cli_pool_create(uint64_t budget_bytes, enum eg_engine engine, const char *library, struct cli_pool *ret_pool)
{
    const char *parents[N_PARENTS];
    list_parents(parents);
    struct cli_pool pool = {.fd = -1};
    int error = -ENOENT;
    for (int i = 0; i < N_PARENTS && error; i++)
        if (parents[i] && *parents[i])
            error = create_below(parents[i], &pool);
    if (error == -EFBIG)
        return cli_fail(CLI_EXIT_FAILED, "the limit on file sizes is too small for the run's own files: raise the hard limit (ulimit -Hf)");
    if (error)
        return cli_fail(CLI_EXIT_FAILED,
                        "cannot make a private directory in XDG_RUNTIME_DIR, /dev/shm or /tmp: %s; make room in one of them",
                        strerror(-error));

    snprintf(pool.library, sizeof pool.library, "%s", library);
    if (strpbrk(library, " :")) {
        snprintf(pool.library, sizeof pool.library, "%s/libendgame.so", pool.dir);
        if (symlink(library, pool.library) != 0) {
            error = errno;
            cli_pool_remove(&pool);
            cli_pool_close(&pool);
            return cli_fail(CLI_EXIT_FAILED, "cannot make %s: %s", pool.library, strerror(error));
        }
    }
    pool.map->version = EG_POOL_VERSION;
    pool.map->budget_bytes = budget_bytes;
    pool.map->engine = (uint32_t)engine;
    pool.map->n_rows = EG_POOL_ROWS;
    pool.map->rows_offset = EG_POOL_ROWS_OFFSET;
    if (getrandom(pool.map->token, sizeof pool.map->token, 0) != (ssize_t)sizeof pool.map->token) {
        error = errno;
        cli_pool_remove(&pool);
        cli_pool_close(&pool);
        return cli_fail(CLI_EXIT_FAILED, "cannot get random bytes: %s", strerror(error));
    }
    /* Last, so that a file with the magic is a whole one. */
    __atomic_store_n(&pool.map->magic, EG_POOL_MAGIC, __ATOMIC_RELEASE);
    *ret_pool = pool;
    return 0;
}

void cli_pool_add_server(struct cli_pool *pool, const struct eg_addr *addr)
{
    struct eg_pool_server *server = &pool->map->servers[pool->map->n_servers];
    server->kind = addr->kind;
    server->sockaddr_len = addr->len_bytes;
    memcpy(server->sockaddr, &addr->sa, addr->len_bytes);
    snprintf(server->text, sizeof server->text, "%s", addr->text);
    pool->map->n_servers++;
}

void cli_pool_add_node(struct cli_pool *pool, const struct eg_addr *addr, uint32_t slots, uint32_t flags)
{
    struct eg_pool_node *node = &pool->map->nodes[pool->map->n_nodes];
    node->kind = addr->kind;
    node->sockaddr_len = addr->len_bytes;
    memcpy(node->sockaddr, &addr->sa, addr->len_bytes);
    snprintf(node->text, sizeof node->text, "%.*s", (int)sizeof node->text - 1, addr->text);
    node->slots = slots;
    node->flags = flags;
    pool->map->n_nodes++;
}

void cli_pool_remove(struct cli_pool *pool)
{
    if (!pool->dir[0])
        return;
    int dir = open(pool->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        unlinkat(dir, "pool", 0);
        unlinkat(dir, EG_HINTS_FILE, 0);
        unlinkat(dir, CLI_POOL_SOCKET, 0);
        for (int i = 0; i < EG_POOL_NODES; i++) {
            char name[sizeof CLI_POOL_SOCKET];
            snprintf(name, sizeof name, CLI_POOL_COMPUTE_SOCKET, i);
            unlinkat(dir, name, 0);
            snprintf(name, sizeof name, CLI_POOL_RELAY_SOCKET, i);
            unlinkat(dir, name, 0);
        }
        unlinkat(dir, "libendgame.so", 0);
        close(dir);
        rmdir(pool->dir);
    }
    pool->dir[0] = 0;
}

void cli_pool_close(struct cli_pool *pool)
{
    if (pool->map)
        munmap(pool->map, EG_POOL_FILE_BYTES);
    if (pool->fd >= 0)
        close(pool->fd);
    pool->map = NULL;
    pool->fd = -1;
}

uint32_t cli_pool_rows(const struct cli_pool *pool)
{
    uint32_t n = __atomic_load_n(&pool->map->rows_used, __ATOMIC_RELAXED);
    return n < 1 ? 1 : n < EG_POOL_ROWS ? n : EG_POOL_ROWS;
}

struct eg_pool_row *cli_pool_row(const struct cli_pool *pool, uint32_t i)
{
    return (struct eg_pool_row *)((char *)pool->map + EG_POOL_ROWS_OFFSET) + i;
}

/* Is a byte of the range locked? Asking through a descriptor that holds no lock itself. */
static bool rows_locked(const struct cli_pool *pool, off_t start, off_t len)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    return fcntl(pool->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool cli_pool_row_alive(const struct cli_pool *pool, uint32_t i)
{
    return rows_locked(pool, EG_POOL_ROWS_OFFSET + (off_t)(i * sizeof(struct eg_pool_row)), 1);
}

enum membership { MEMBER_NO, MEMBER_YES, MEMBER_UNCLEAR };

/* Kernel threads, zombies and `env -i` have an empty environment; a process in the middle of an exec has none yet, which
 * field 51 of its stat, env_end, tells: 0. */
static enum membership judge_empty(int proc, int pid)
{
    enum { PF_KTHREAD = 0x00200000, FIELD_STATE = 3, FIELD_FLAGS = 9, FIELD_ENV_END = 51 };
    char path[64], text[1024];
    snprintf(path, sizeof path, "%d", pid);
    char *fields = cli_stat_fields(proc, path, text, sizeof text);
    char *word = fields ? strtok(fields, " ") : NULL;
    for (int field = FIELD_STATE; word; field++, word = strtok(NULL, " ")) {
        if (field == FIELD_STATE && (*word == 'Z' || *word == 'X'))
            return MEMBER_NO;
        if (field == FIELD_FLAGS && (strtoul(word, NULL, 10) & PF_KTHREAD))
            return MEMBER_NO;
        if (field == FIELD_ENV_END)
            return strtoull(word, NULL, 10) == 0 ? MEMBER_UNCLEAR : MEMBER_NO;
    }
    return MEMBER_NO;
}

static enum membership judge(int proc, int pid, const char *wanted)
{
    char path[64];
    snprintf(path, sizeof path, "%d/environ", pid);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MEMBER_NO;
    FILE *file = fdopen(fd, "r");
    if (!file) {
        close(fd);
        return MEMBER_NO;
    }
    char *entry = NULL;
    size_t size = 0;
    bool any = false, found = false;
    while (!found && getdelim(&entry, &size, 0, file) > 0) {
        any = true;
        found = strcmp(entry, wanted) == 0;
    }
    free(entry);
    fclose(file);
    if (found)
        return MEMBER_YES;
    return any ? MEMBER_NO : judge_empty(proc, pid);
}

static enum membership judge_all(const struct cli_pool *pool)
{
    char wanted[sizeof pool->path + 16];
    snprintf(wanted, sizeof wanted, "ENDGAME_POOL=%s", pool->path);
    DIR *proc = opendir("/proc");
    if (!proc)
        return MEMBER_NO;
    enum membership all = MEMBER_NO;
    for (struct dirent *entry; all != MEMBER_YES && (entry = readdir(proc));) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        enum membership one = judge(dirfd(proc), atoi(entry->d_name), wanted);
        if (one != MEMBER_NO)
            all = one;
    }
    closedir(proc);
    return all;
}

static bool any_row_locked(const struct cli_pool *pool)
{
    return rows_locked(pool, EG_POOL_ROWS_OFFSET, EG_POOL_ROWS * (off_t)sizeof(struct eg_pool_row));
}

bool cli_pool_in_use(const struct cli_pool *pool)
{
    enum { TRIES = 10, PAUSE_US = 5000 };
    for (int try = 0; try < TRIES; try++) {
        if (any_row_locked(pool))
            return true;
        if (pool->map && __atomic_load_n(&pool->map->sole, __ATOMIC_RELAXED))
            return false;
        enum membership all = judge_all(pool);
        if (all == MEMBER_NO && any_row_locked(pool))
            return true; /* its row was locked, and then its environment cleared, between the two looks */
        if (all != MEMBER_UNCLEAR)
            return all == MEMBER_YES;
        usleep(PAUSE_US);
    }
    return false; /* a process without environment is nobody of ours */
}
