/* torture_tls.c - what belongs to one thread: __thread variables, keys and their destructors, errno, identity; and objects loaded while
 * threads run (torture_plugin.so, beside this program). See torture.h for the command line. */
#include "torture.h"

#include <dlfcn.h>
#include <limits.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

/* ---- __thread ----------------------------------------------------------------------------------------------------------- */

static __thread uint64_t own_value = 12345;
static __thread uint64_t own_zero;
static _Thread_local struct {
    unsigned char bytes[10000];
} own_pages;
static __thread const char *own_text = "of every thread";

static void variables_body(struct member *me)
{
    const int n = rounds(50);
    EQUAL(own_value, 12345);
    EQUAL(own_zero, 0);
    CHECK(!strcmp(own_text, "of every thread"), "a __thread pointer starts as '%s'", own_text);
    CHECK_ZEROS(own_pages.bytes, sizeof own_pages.bytes);
    uint64_t **const addresses = me->shared;
    addresses[me->number] = &own_value;
    for (int i = 0; i < n; i++) {
        const uint64_t key = rng_next(&me->rng);
        own_value = key;
        own_zero++;
        fill_bytes(own_pages.bytes, sizeof own_pages.bytes, key);
        if (i % 10 == 0)
            sleep_ms(1);
        CHECK(own_value == key, "round %d: another thread's value", i);
        EQUAL(own_zero, i + 1);
        CHECK_BYTES(own_pages.bytes, sizeof own_pages.bytes, key);
    }
}

static void variables(void)
{
    const int n = threads(4);
    uint64_t **addresses = NOT_NULL(calloc((size_t)n, sizeof *addresses));
    own_value = 777;
    crew_run(n, variables_body, addresses);
    EQUAL(own_value, 777);
    own_value = 12345;
    for (int i = 0; i < n; i++)
        CHECK(addresses[i] && addresses[i] != &own_value, "thread %d used the main thread's variable", i);
    free(addresses);
}

/* Another thread's variable through its address, while it lives. */
static struct {
    pthread_barrier_t barrier;
    uint64_t *at[1000];
} visit;

static void visited_body(struct member *me)
{
    own_value = (uint64_t)me->number + 100;
    visit.at[me->number] = &own_value;
    pthread_barrier_wait(&visit.barrier);
    const int next = (me->number + 1) % me->of;
    EQUAL(*visit.at[next], next + 100);
    pthread_barrier_wait(&visit.barrier);
    *visit.at[next] = (uint64_t)next + 1000;
    pthread_barrier_wait(&visit.barrier);
    EQUAL(own_value, me->number + 1000);
    pthread_barrier_wait(&visit.barrier);
}

static void by_address(void)
{
    const int n = threads(4);
    OK(pthread_barrier_init(&visit.barrier, NULL, (unsigned)n));
    crew_run(n, visited_body, NULL);
    OK(pthread_barrier_destroy(&visit.barrier));
}

/* ---- keys --------------------------------------------------------------------------------------------------------------- */

static pthread_key_t keys[40];
static pthread_key_t again_key;
static atomic_int destroyed, destroyed_again;
static atomic_ulong destroyed_sum;

static void destroy_value(void *value)
{
    atomic_fetch_add(&destroyed, 1);
    atomic_fetch_add(&destroyed_sum, *(unsigned long *)value);
    free(value);
}

/* Sets itself again: it must be called PTHREAD_DESTRUCTOR_ITERATIONS times, and no more. */
static void destroy_again(void *value)
{
    atomic_fetch_add(&destroyed_again, 1);
    OK(pthread_setspecific(again_key, value));
}

static void keys_body(struct member *me)
{
    static char again;
    for (size_t k = 0; k < COUNT_OF(keys); k++) {
        CHECK(!pthread_getspecific(keys[k]), "a key has a value in a new thread");
        unsigned long *value = NOT_NULL(malloc(sizeof *value));
        *value = (unsigned long)me->number * 100 + k;
        OK(pthread_setspecific(keys[k], value));
    }
    OK(pthread_setspecific(again_key, &again));
    sleep_ms(1);
    for (size_t k = 0; k < COUNT_OF(keys); k++) {
        const unsigned long *value = pthread_getspecific(keys[k]);
        CHECK(value && *value == (unsigned long)me->number * 100 + k, "key %zu has another value", k);
    }
    if (me->number % 3 == 1)
        pthread_exit(me); /* destructors run then, too */
}

static void keys_test(void)
{
    const int n = threads(4), n_keys = (int)COUNT_OF(keys);
    destroyed = destroyed_again = 0;
    destroyed_sum = 0;
    for (int k = 0; k < n_keys; k++)
        OK(pthread_key_create(&keys[k], destroy_value));
    OK(pthread_key_create(&again_key, destroy_again));
    crew_run(n, keys_body, NULL);
    EQUAL(destroyed, n * n_keys);
    EQUAL(destroyed_again, n * PTHREAD_DESTRUCTOR_ITERATIONS);
    EQUAL(destroyed_sum, 100l * n_keys * (n * (n - 1) / 2) + (long)n * (n_keys * (n_keys - 1) / 2));
    for (int k = 0; k < n_keys; k++)
        OK(pthread_key_delete(keys[k]));
    OK(pthread_key_delete(again_key));
    result("%d %lu", destroyed, destroyed_sum);
}

/* ---- errno, and other things that the library keeps for each thread ----------------------------------------------------- */

static void errno_body(struct member *me)
{
    const int n = rounds(100);
    for (int i = 0; i < n; i++) {
        errno = 1000 + me->number;
        if (i % 10 == 0)
            sleep_ms(0);
        EQUAL(errno, 1000 + me->number);
        switch (me->number % 4) {
        case 0: FAILS(close(-1), EBADF); break;
        case 1: FAILS(access("/nowhere/at/all", R_OK), ENOENT); break;
        case 2: FAILS(read(-1, NULL, 0), EBADF); break;
        default: FAILS(kill(getpid(), 1000), EINVAL); break;
        }
    }
    errno = 0;
    CHECK(strtol("999999999999999999999999", NULL, 10) == LONG_MAX && errno == ERANGE, "strtol: errno is %d", errno);
}

static void errno_test(void)
{
    errno = 4242;
    crew_run(threads(4), errno_body, NULL);
    EQUAL(errno, 4242);
}

static void library_state_body(struct member *me)
{
    const int n = rounds(50);
    char wanted[40], *rest = NULL, text[] = "a:bb:ccc:dddd";
    locale_t locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    CHECK(locale, "newlocale: %s", strerror(errno));
    if (me->number % 2)
        uselocale(locale);
    snprintf(wanted, sizeof wanted, "Unknown error %d", 5000 + me->number);
    size_t len = 1;
    for (char *word = strtok_r(text, ":", &rest); word; word = strtok_r(NULL, ":", &rest)) {
        EQUAL(strlen(word), len);
        len++;
    }
    for (int i = 0; i < n; i++) {
        const char *text_of_error = strerror(5000 + me->number); /* in a buffer of the thread's own */
        if (i % 10 == 0)
            sleep_ms(0);
        CHECK(!strcmp(text_of_error, wanted), "strerror: '%s'", text_of_error);
    }
    EQUAL(uselocale((locale_t)0) == locale, me->number % 2);
    uselocale(LC_GLOBAL_LOCALE);
    freelocale(locale);
}

static void library_state(void)
{
    crew_run(threads(4), library_state_body, NULL);
}

/* ---- who am I ----------------------------------------------------------------------------------------------------------- */

static pid_t main_pid, main_tid;
static pthread_t main_self;

static void identity_body(struct member *me)
{
    pid_t *const tids = me->shared;
    const pid_t tid = gettid();
    tids[me->number] = tid;
    EQUAL(getpid(), main_pid);
    EQUAL(syscall(SYS_getpid), main_pid);
    EQUAL(syscall(SYS_gettid), tid);
    CHECK(tid != main_tid, "a thread has the main thread's id");
    CHECK(!pthread_equal(pthread_self(), main_self), "a thread thinks that it is the main thread");
    EQUAL(getppid(), syscall(SYS_getppid));
    EQUAL(getuid(), syscall(SYS_getuid));

    char path[64], name[32] = "", wanted[32];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", (int)tid);
    CHECK(access(path, R_OK) == 0, "%s: %s", path, strerror(errno));
    snprintf(path, sizeof path, "/proc/%d/task/%d", (int)main_pid, (int)tid);
    CHECK(access(path, R_OK) == 0, "%s: %s", path, strerror(errno));
    snprintf(wanted, sizeof wanted, "torture-%d", me->number);
    OK(pthread_setname_np(pthread_self(), wanted));
    OK(pthread_getname_np(pthread_self(), name, sizeof name));
    CHECK(!strcmp(name, wanted), "the thread's name is '%s', wanted '%s'", name, wanted);
    for (int i = 0; i < 20; i++) {
        EQUAL(gettid(), tid);
        CHECK(pthread_equal(pthread_self(), pthread_self()), "pthread_self changes");
        sched_yield();
    }
}

static int compare_ids(const void *a, const void *b)
{
    return *(const pid_t *)a < *(const pid_t *)b ? -1 : *(const pid_t *)a > *(const pid_t *)b;
}

static void identity(void)
{
    const int n = threads(4);
    pid_t *tids = NOT_NULL(calloc((size_t)n, sizeof *tids));
    main_pid = getpid();
    main_tid = gettid();
    main_self = pthread_self();
    EQUAL(main_pid, main_tid);
    struct member *crew = crew_start(n, identity_body, tids);
    crew_join(crew);
    EQUAL(gettid(), main_tid);
    qsort(tids, (size_t)n, sizeof *tids, compare_ids);
    for (int i = 0; i < n; i++)
        CHECK(tids[i] > 0, "a thread's id is %d", (int)tids[i]);
    free(tids);
}

static struct {
    pthread_barrier_t barrier;
    pid_t tids[1000];
} alive;

static void distinct_body(struct member *me)
{
    alive.tids[me->number] = gettid();
    pthread_barrier_wait(&alive.barrier);
    for (int i = 0; i < me->of; i++)
        CHECK(i == me->number || alive.tids[i] != alive.tids[me->number], "threads %d and %d are both %d", i, me->number, (int)alive.tids[i]);
    pthread_barrier_wait(&alive.barrier);
}

static void distinct_ids(void)
{
    OK(pthread_barrier_init(&alive.barrier, NULL, (unsigned)threads(8)));
    crew_run(threads(8), distinct_body, NULL);
    OK(pthread_barrier_destroy(&alive.barrier));
}

/* ---- objects that are loaded late --------------------------------------------------------------------------------------- */

struct plugin {
    void *handle;
    int (*constructed)(void);
    uint64_t (*constant)(int);
    const char *(*name)(int);
    uint64_t (*own)(uint64_t);
    int (*big_sum)(void);
    uint64_t (*count)(uint64_t);
    uint64_t (*call_back)(uint64_t (*)(uint64_t), uint64_t);
};

static void *plugin_symbol(void *handle, const char *name)
{
    void *symbol = dlsym(handle, name);
    CHECK(symbol, "dlsym %s: %s", name, dlerror());
    return symbol;
}

static void plugin_load(struct plugin *plugin)
{
    char path[PATH_MAX];
    const ssize_t len = SYS(readlink("/proc/self/exe", path, sizeof path - 30));
    path[len] = 0;
    strcpy(strrchr(path, '/') + 1, "torture_plugin.so");
    plugin->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(plugin->handle, "dlopen: %s", dlerror());
    *(void **)&plugin->constructed = plugin_symbol(plugin->handle, "plugin_constructed");
    *(void **)&plugin->constant = plugin_symbol(plugin->handle, "plugin_constant");
    *(void **)&plugin->name = plugin_symbol(plugin->handle, "plugin_name");
    *(void **)&plugin->own = plugin_symbol(plugin->handle, "plugin_own");
    *(void **)&plugin->big_sum = plugin_symbol(plugin->handle, "plugin_big_sum");
    *(void **)&plugin->count = plugin_symbol(plugin->handle, "plugin_count");
    *(void **)&plugin->call_back = plugin_symbol(plugin->handle, "plugin_call_back");
}

static uint64_t triple(uint64_t value)
{
    return 3 * value;
}

static void plugin_check(const struct plugin *plugin, int uses)
{
    static const uint64_t constants[] = {2, 3, 5, 7};
    static const char *const names[] = {"two", "three", "five", "seven"};
    EQUAL(plugin->constructed(), 1);
    for (int i = 0; i < 4; i++) {
        EQUAL(plugin->constant(i), constants[i]);
        CHECK(!strcmp(plugin->name(i), names[i]), "the object's string is '%s'", plugin->name(i));
    }
    EQUAL(plugin->big_sum(), 0);
    for (int i = 1; i <= uses; i++) {
        EQUAL(plugin->own(1), 11 + i);
        plugin->count(1);
    }
    EQUAL(plugin->call_back(triple, 5), 17);
}

static struct plugin late;
static struct {
    pthread_barrier_t barrier;
} loading;

/* Thread 0 loads; the others, who are there already, call. */
static void dlopen_body(struct member *me)
{
    pthread_barrier_wait(&loading.barrier);
    if (me->number == 0)
        plugin_load(&late);
    pthread_barrier_wait(&loading.barrier);
    plugin_check(&late, rounds(20));
    pthread_barrier_wait(&loading.barrier);
}

static void dlopen_test(void)
{
    const int n = threads(4);
    OK(pthread_barrier_init(&loading.barrier, NULL, (unsigned)n));
    crew_run(n, dlopen_body, NULL);
    OK(pthread_barrier_destroy(&loading.barrier));
    plugin_check(&late, 5); /* the main thread's own */
    EQUAL(late.count(0), 40 + n * rounds(20) + 5);
    result("%d", (int)late.count(0));
    EQUAL(dlclose(late.handle), 0);
}

/* Loaded by the main thread while others run and call it. */
static void dlopen_main_body(struct member *me)
{
    (void)me;
    pthread_barrier_wait(&loading.barrier);
    pthread_barrier_wait(&loading.barrier);
    plugin_check(&late, 3);
}

static void dlopen_main(void)
{
    OK(pthread_barrier_init(&loading.barrier, NULL, (unsigned)threads(4) + 1));
    struct member *crew = crew_start(threads(4), dlopen_main_body, NULL);
    pthread_barrier_wait(&loading.barrier);
    plugin_load(&late);
    pthread_barrier_wait(&loading.barrier);
    crew_join(crew);
    OK(pthread_barrier_destroy(&loading.barrier));
    EQUAL(late.count(0), 40 + 3 * threads(4));
    EQUAL(dlclose(late.handle), 0);
}

/* Loaded and unloaded again and again, by everybody. */
static void dlopen_churn_body(struct member *me)
{
    const int n = rounds(10);
    (void)me;
    for (int i = 0; i < n; i++) {
        struct plugin plugin;
        plugin_load(&plugin);
        EQUAL(plugin.constant(3), 7);
        plugin.own(1);
        plugin.count(1);
        EQUAL(dlclose(plugin.handle), 0);
    }
}

static void dlopen_churn(void)
{
    crew_run(threads(3), dlopen_churn_body, NULL);
}

/* ---- who runs where ----------------------------------------------------------------------------------------------------- */

static void stack_body(struct member *me)
{
    pthread_attr_t attr;
    void *low;
    size_t len, guard;
    char here;
    (void)me;
    OK(pthread_getattr_np(pthread_self(), &attr));
    OK(pthread_attr_getstack(&attr, &low, &len));
    OK(pthread_attr_getguardsize(&attr, &guard));
    CHECK(&here > (char *)low && &here < (char *)low + len, "the stack is said to be at %p, and is at %p", low, (void *)&here);
    OK(pthread_attr_destroy(&attr));
}

static void stack_place(void)
{
    crew_run(threads(4), stack_body, NULL);
}

static const struct sub_test tests[] = {
    {"variables", variables, "__thread variables, initialised and zero, over pages"},
    {"by_address", by_address, "another thread's variable, by its address"},
    {"keys", keys_test, "pthread keys, destructors at return and pthread_exit"},
    {"errno", errno_test, "errno of each thread"},
    {"library_state", library_state, "strerror, strtok_r, uselocale"},
    {"identity", identity, "getpid, gettid, pthread_self, names, /proc/self/task"},
    {"distinct_ids", distinct_ids, "no two threads alive have one id"},
    {"stack_place", stack_place, "pthread_getattr_np"},
    {"dlopen", dlopen_test, "a thread loads an object with TLS, the others call it"},
    {"dlopen_main", dlopen_main, "the main thread loads it while others run"},
    {"dlopen_churn", dlopen_churn, "everybody loads and unloads it"},
};

TORTURE_MAIN(tests)
