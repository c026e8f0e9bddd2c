/* torture_shared.c - computations on shared arrays, as parallel programs do them: stencils, reductions, products, sorting, pipelines. The
 * results are checked against the same computation by one thread. See torture.h for the command line. */
#include "torture.h"

/* ---- phases ------------------------------------------------------------------------------------------------------------- */

static pthread_barrier_t barrier;

static void meet(void)
{
    const int error = pthread_barrier_wait(&barrier);
    CHECK(!error || error == PTHREAD_BARRIER_SERIAL_THREAD, "barrier: %d", error);
}

static uint64_t crew_with_barrier(int n, void (*body)(struct member *), void *shared)
{
    OK(pthread_barrier_init(&barrier, NULL, (unsigned)n));
    const uint64_t sum = crew_run(n, body, shared);
    OK(pthread_barrier_destroy(&barrier));
    return sum;
}

static void share(int number, int of, size_t n, size_t *first, size_t *end)
{
    *first = n * (size_t)number / (size_t)of;
    *end = n * ((size_t)number + 1) / (size_t)of;
}

/* ---- stencil by rows ---------------------------------------------------------------------------------------------------- */

enum { ROWS = 96, COLUMNS = 700 }; /* a row is not a whole number of pages */

static double *grid[2];

static void grid_init(double *g)
{
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        g[i] = (double)(mix(i) % 1000) / 7.0;
}

static void stencil_rows(const double *from, double *to, size_t first, size_t end)
{
    for (size_t r = first < 1 ? 1 : first; r < (end > ROWS - 1 ? ROWS - 1 : end); r++)
        for (size_t c = 1; c < COLUMNS - 1; c++) {
            const double *const at = from + r * COLUMNS + c;
            to[r * COLUMNS + c] = 0.2 * (at[0] + at[-1] + at[1] + at[-COLUMNS] + at[COLUMNS]);
        }
}

static void stencil_body(struct member *me)
{
    const int n = rounds(12);
    size_t first, end;
    share(me->number, me->of, ROWS, &first, &end);
    for (int i = 0; i < n; i++) {
        stencil_rows(grid[i % 2], grid[1 - i % 2], first, end);
        meet();
    }
}

static void stencil(void)
{
    const size_t len = sizeof(double) * ROWS * COLUMNS;
    const int n = rounds(12);
    double *wanted[2];
    for (int g = 0; g < 2; g++) {
        grid_init(grid[g] = NOT_NULL(malloc(len)));
        grid_init(wanted[g] = NOT_NULL(malloc(len)));
    }
    for (int i = 0; i < n; i++)
        stencil_rows(wanted[i % 2], wanted[1 - i % 2], 0, ROWS);
    crew_with_barrier(threads(4), stencil_body, NULL);
    uint64_t hash = 0;
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        uint64_t bits;
        CHECK(grid[n % 2][i] == wanted[n % 2][i], "row %zu, column %zu is %.17g, wanted %.17g", i / COLUMNS, i % COLUMNS, grid[n % 2][i],
              wanted[n % 2][i]);
        memcpy(&bits, &grid[n % 2][i], sizeof bits);
        hash = mix(hash ^ bits);
    }
    for (int g = 0; g < 2; g++) {
        free(grid[g]);
        free(wanted[g]);
    }
    result("%016" PRIx64, hash);
}

/* ---- reduction over a large array --------------------------------------------------------------------------------------- */

static uint32_t *numbers;
static size_t n_numbers;
static struct {
    pthread_mutex_t lock;
    uint64_t sum, max, buckets[16];
} total = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void reduction_body(struct member *me)
{
    size_t first, end;
    uint64_t sum = 0, max = 0, buckets[16] = {0};
    share(me->number, me->of, n_numbers, &first, &end);
    for (size_t i = first; i < end; i++)
        numbers[i] = (uint32_t)mix(i);
    meet();
    /* Somebody else's part: it has to come here. */
    share((me->number + 1) % me->of, me->of, n_numbers, &first, &end);
    for (size_t i = first; i < end; i++) {
        CHECK(numbers[i] == (uint32_t)mix(i), "element %zu is wrong", i);
        sum += numbers[i];
        max = numbers[i] > max ? numbers[i] : max;
        buckets[numbers[i] >> 28]++;
    }
    OK(pthread_mutex_lock(&total.lock));
    total.sum += sum;
    total.max = max > total.max ? max : total.max;
    for (int b = 0; b < 16; b++)
        total.buckets[b] += buckets[b];
    OK(pthread_mutex_unlock(&total.lock));
}

static void reduction(void)
{
    n_numbers = (size_t)rounds(1000) * 1000;
    numbers = NOT_NULL(malloc(n_numbers * sizeof *numbers));
    total.sum = total.max = 0;
    memset(total.buckets, 0, sizeof total.buckets);
    crew_with_barrier(threads(4), reduction_body, NULL);
    uint64_t sum = 0, max = 0, n = 0;
    for (size_t i = 0; i < n_numbers; i++) {
        sum += (uint32_t)mix(i);
        max = (uint32_t)mix(i) > max ? (uint32_t)mix(i) : max;
    }
    for (int b = 0; b < 16; b++)
        n += total.buckets[b];
    EQUAL(total.sum, sum);
    EQUAL(total.max, max);
    EQUAL(n, n_numbers);
    free(numbers);
    result("%" PRIu64 " %" PRIu64, sum, max);
}

/* ---- matrix product ----------------------------------------------------------------------------------------------------- */

enum { SIDE = 90 };
static uint64_t (*left)[SIDE], (*right)[SIDE], (*product)[SIDE];

static void product_body(struct member *me)
{
    /* Rows interleaved: several threads write in each page. */
    for (int i = me->number; i < SIDE; i += me->of)
        for (int j = 0; j < SIDE; j++) {
            uint64_t sum = 0;
            for (int k = 0; k < SIDE; k++)
                sum += left[i][k] * right[k][j];
            product[i][j] = sum;
        }
}

static void matrix_product(void)
{
    left = NOT_NULL(malloc(sizeof(uint64_t) * SIDE * SIDE));
    right = NOT_NULL(malloc(sizeof(uint64_t) * SIDE * SIDE));
    product = NOT_NULL(calloc(SIDE * SIDE, sizeof(uint64_t)));
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            left[i][j] = mix((uint64_t)(i * SIDE + j));
            right[i][j] = mix((uint64_t)(i * SIDE + j) + 999999);
        }
    crew_run(threads(4), product_body, NULL);
    uint64_t hash = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            uint64_t sum = 0;
            for (int k = 0; k < SIDE; k++)
                sum += left[i][k] * right[k][j];
            CHECK(product[i][j] == sum, "element %d, %d is wrong", i, j);
            hash = mix(hash ^ sum);
        }
    free(left);
    free(right);
    free(product);
    result("%016" PRIx64, hash);
}

/* ---- sorting: halves by threads, down to a depth; then merged in place of the makers ------------------------------------ */

struct sorting {
    uint32_t *at, *space;
    size_t n;
    int depth;
};

static int compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void *sort_main(void *arg)
{
    const struct sorting *const job = arg;
    if (job->depth == 0) {
        qsort(job->at, job->n, sizeof *job->at, compare);
        return NULL;
    }
    const size_t half = job->n / 2;
    struct sorting low = {job->at, job->space, half, job->depth - 1}, high = {job->at + half, job->space + half, job->n - half, job->depth - 1};
    pthread_t id;
    OK(pthread_create(&id, NULL, sort_main, &low)); /* its job is on this thread's stack */
    sort_main(&high);
    OK(pthread_join(id, NULL));
    size_t l = 0, h = half;
    for (size_t i = 0; i < job->n; i++)
        job->space[i] = h == job->n || (l < half && job->at[l] <= job->at[h]) ? job->at[l++] : job->at[h++];
    memcpy(job->at, job->space, job->n * sizeof *job->at);
    return NULL;
}

static void sorting(void)
{
    const size_t n = (size_t)rounds(60) * 1000;
    struct sorting job = {NOT_NULL(malloc(n * 4)), NOT_NULL(malloc(n * 4)), n, 3};
    uint64_t sum = 0, sorted_sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += job.at[i] = (uint32_t)mix(i);
    sort_main(&job);
    for (size_t i = 0; i < n; i++) {
        CHECK(i == 0 || job.at[i - 1] <= job.at[i], "element %zu is out of order", i);
        sorted_sum += job.at[i];
    }
    EQUAL(sorted_sum, sum);
    free(job.at);
    free(job.space);
    result("%" PRIu64, sum);
}

/* ---- a pipeline: each stage a thread, a ring of slots between two ------------------------------------------------------- */

enum { RING = 8, STAGES = 4 };

static struct ring {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned head, n;
    struct {
        uint64_t value;
        unsigned char load[1500];
    } slot[RING];
} rings[STAGES - 1];

static void ring_put(struct ring *ring, uint64_t value)
{
    OK(pthread_mutex_lock(&ring->lock));
    while (ring->n == RING)
        OK(pthread_cond_wait(&ring->changed, &ring->lock));
    const unsigned at = (ring->head + ring->n) % RING;
    ring->slot[at].value = value;
    fill_bytes(ring->slot[at].load, sizeof ring->slot[at].load, value);
    ring->n++;
    OK(pthread_cond_broadcast(&ring->changed));
    OK(pthread_mutex_unlock(&ring->lock));
}

static uint64_t ring_get(struct ring *ring)
{
    OK(pthread_mutex_lock(&ring->lock));
    while (ring->n == 0)
        OK(pthread_cond_wait(&ring->changed, &ring->lock));
    const uint64_t value = ring->slot[ring->head].value;
    CHECK_BYTES(ring->slot[ring->head].load, sizeof ring->slot[0].load, value);
    ring->head = (ring->head + 1) % RING;
    ring->n--;
    OK(pthread_cond_broadcast(&ring->changed));
    OK(pthread_mutex_unlock(&ring->lock));
    return value;
}

static void pipeline_body(struct member *me)
{
    const int n = rounds(150);
    for (int i = 0; i < n; i++) {
        const uint64_t value = me->number == 0 ? (uint64_t)i : ring_get(&rings[me->number - 1]);
        if (me->number == STAGES - 1)
            me->sum = mix(me->sum ^ value); /* in order */
        else
            ring_put(&rings[me->number], value * 3 + 1);
    }
}

static void pipeline(void)
{
    for (int r = 0; r < STAGES - 1; r++) {
        memset(&rings[r], 0, sizeof rings[r]);
        OK(pthread_mutex_init(&rings[r].lock, NULL));
        OK(pthread_cond_init(&rings[r].changed, NULL));
    }
    const uint64_t hash = crew_run(STAGES, pipeline_body, NULL);
    uint64_t wanted = 0;
    for (uint64_t i = 0; i < (uint64_t)rounds(150); i++) {
        uint64_t value = i;
        for (int s = 0; s < STAGES - 1; s++)
            value = value * 3 + 1;
        wanted = mix(wanted ^ value);
    }
    CHECK(hash == wanted, "the pipeline's result is wrong");
    result("%016" PRIx64, hash);
}

/* ---- a pool that takes jobs from a queue, over and over ----------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    uint64_t *jobs;
    size_t next, n, finished;
    bool end;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void pool_body(struct member *me)
{
    OK(pthread_mutex_lock(&pool.lock));
    for (;;) {
        while (pool.next == pool.n && !pool.end)
            OK(pthread_cond_wait(&pool.work, &pool.lock));
        if (pool.next == pool.n)
            break;
        const size_t job = pool.next++;
        OK(pthread_mutex_unlock(&pool.lock));
        uint64_t value = pool.jobs[job];
        for (int i = 0; i < 2000; i++)
            value = mix(value);
        pool.jobs[job] = value;
        me->sum++;
        OK(pthread_mutex_lock(&pool.lock));
        if (++pool.finished == pool.n)
            OK(pthread_cond_signal(&pool.done));
    }
    OK(pthread_mutex_unlock(&pool.lock));
}

static void thread_pool(void)
{
    const int batches = rounds(6);
    const size_t n = 100;
    uint64_t hash = 0;
    pool.next = pool.n = pool.finished = 0;
    pool.end = false;
    struct member *crew = crew_start(threads(4), pool_body, NULL);
    for (int b = 0; b < batches; b++) {
        uint64_t *jobs = NOT_NULL(malloc(n * sizeof *jobs));
        for (size_t j = 0; j < n; j++)
            jobs[j] = (uint64_t)b * n + j;
        OK(pthread_mutex_lock(&pool.lock));
        pool.jobs = jobs;
        pool.next = pool.finished = 0;
        pool.n = n;
        OK(pthread_cond_broadcast(&pool.work));
        while (pool.finished < n)
            OK(pthread_cond_wait(&pool.done, &pool.lock));
        pool.next = pool.n = 0;
        OK(pthread_mutex_unlock(&pool.lock));
        for (size_t j = 0; j < n; j++) {
            uint64_t value = (uint64_t)b * n + j;
            for (int i = 0; i < 2000; i++)
                value = mix(value);
            CHECK(jobs[j] == value, "job %zu of batch %d is wrong", j, b);
            hash ^= value;
        }
        free(jobs);
    }
    OK(pthread_mutex_lock(&pool.lock));
    pool.end = true;
    OK(pthread_cond_broadcast(&pool.work));
    OK(pthread_mutex_unlock(&pool.lock));
    EQUAL(crew_join(crew), (uint64_t)batches * n);
    result("%016" PRIx64, hash);
}

/* ---- a table that all read and few write, each bucket with its own lock ------------------------------------------------- */

enum { BUCKETS = 64 };

struct entry {
    struct entry *next;
    uint64_t key, value;
};

static struct {
    pthread_mutex_t lock;
    struct entry *first;
} table[BUCKETS];

static void table_add(uint64_t key, uint64_t add)
{
    const size_t b = mix(key) % BUCKETS;
    OK(pthread_mutex_lock(&table[b].lock));
    struct entry *entry = table[b].first;
    while (entry && entry->key != key)
        entry = entry->next;
    if (!entry) {
        entry = NOT_NULL(malloc(sizeof *entry));
        *entry = (struct entry){table[b].first, key, 0};
        table[b].first = entry;
    }
    entry->value += add;
    OK(pthread_mutex_unlock(&table[b].lock));
}

static void table_body(struct member *me)
{
    const int n = rounds(600);
    for (int i = 0; i < n; i++) {
        table_add(rng_below(&me->rng, 200), 1);
        me->sum++;
    }
}

static void hash_table(void)
{
    for (int b = 0; b < BUCKETS; b++)
        OK(pthread_mutex_init(&table[b].lock, NULL));
    const uint64_t added = crew_run(threads(4), table_body, NULL);
    uint64_t found = 0, hash = 0;
    for (size_t b = 0; b < BUCKETS; b++) {
        for (struct entry *entry = table[b].first, *next; entry; entry = next) {
            next = entry->next;
            CHECK(mix(entry->key) % BUCKETS == b, "key %" PRIu64 " is in the wrong bucket", entry->key);
            found += entry->value;
            hash += mix(entry->key * 1000003 + entry->value);
            free(entry);
        }
        table[b].first = NULL;
        OK(pthread_mutex_destroy(&table[b].lock));
    }
    EQUAL(found, added);
    result("%" PRIu64 " %016" PRIx64, found, hash);
}

static const struct sub_test tests[] = {
    {"stencil", stencil, "rows of a grid, a barrier after each step"},
    {"reduction", reduction, "--rounds times 1000 numbers: written by one, read by another"},
    {"matrix_product", matrix_product, "interleaved rows"},
    {"sorting", sorting, "merge sort, threads making threads"},
    {"pipeline", pipeline, "four stages, in order"},
    {"thread_pool", thread_pool, "jobs in batches"},
    {"hash_table", hash_table, "a lock to each bucket"},
};

TORTURE_MAIN(tests)
