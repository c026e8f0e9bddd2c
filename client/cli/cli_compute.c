/* cli_compute.c - compute nodes of a run. */
#include "cli_compute.h"
#include "cli_machine.h"
#include "cli_verbs.h"
#include "proto/eg_cpu.h"
#include "proto/eg_threads.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define NODE_TIMEOUT_MS 3000
#define EMBEDDED "embedded"

static int add_embedded(const struct cli_command *command, const char *text, struct cli_compute *compute)
{
    const char *number = text + strlen(EMBEDDED);
    char *end;
    long n = 1;
    if (*number) {
        n = strtol(number + 1, &end, 10);
        if (number[1] < '0' || number[1] > '9' || *end || n < 1 || n > EG_POOL_NODES)
            return cli_usage(command, "--compute %s: write embedded:N with N from 1 to %d", text, EG_POOL_NODES);
    }
    if (compute->n_nodes + compute->n_embedded + n > EG_POOL_NODES)
        return cli_usage(command, "more than %d compute nodes given", EG_POOL_NODES);
    compute->n_embedded += (int)n;
    return 0;
}

static bool is_address(const char *text)
{
    static const char *const kinds[] = {"tcp:", "rdma:", "auto:", "unix:"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(text, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}

int cli_compute_add(const struct cli_command *command, const char *text, struct cli_compute *compute)
{
    char why[256];
    size_t len = strlen(EMBEDDED);
    if (strncmp(text, EMBEDDED, len) == 0 && (text[len] == 0 || text[len] == ':'))
        return add_embedded(command, text, compute);
    if (compute->n_nodes + compute->n_embedded == EG_POOL_NODES)
        return cli_usage(command, "more than %d compute nodes given", EG_POOL_NODES);
    if (!is_address(text))
        return cli_usage(command, "--compute %s: not an address, write tcp:HOST:PORT, rdma:HOST:PORT, auto:HOST:PORT, unix:PATH or embedded[:N]",
                         text);
    int error = eg_addr_parse(text, 0, &compute->nodes[compute->n_nodes], why, sizeof why);
    if (error == -EINVAL || error == -ENAMETOOLONG)
        return cli_usage(command, "--compute: %s", why);
    if (error)
        return cli_fail(CLI_EXIT_FAILED, "--compute: %s", why);
    compute->n_nodes++;
    return 0;
}

int cli_compute_mode(const struct cli_command *command, const char *text, struct cli_compute *compute)
{
    static const char *const names[] = {[EG_THREADS_HOME] = "home", [EG_THREADS_REMOTE] = "remote", [EG_THREADS_AUTO] = "auto"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) {
            compute->mode = (enum eg_threads_mode)i;
            compute->mode_given = true;
            return 0;
        }
    return cli_usage(command, "unknown place for threads '%s' (home, remote or auto)", text);
}

/* Text from a peer, fit for a terminal. */
static const char *printable(char *text)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return text;
}

/* Could a thread that began here go on there? Returns: 0, or CLI_EXIT_FAILED after one line. */
static int judge(const struct eg_addr *addr, const Endgame__NodeReply *node)
{
    struct eg_cpu here, there = {0};
    uint8_t vdso[EG_VDSO_SUM_BYTES];
    struct utsname name;
    char why[256];
    long page_bytes = sysconf(_SC_PAGESIZE);

    if (node->version != EG_THREADS_VERSION)
        return cli_fail(CLI_EXIT_FAILED, "%s speaks version %" PRIu32 " of remote threads, this endgame speaks %u; upgrade the older one",
                        addr->text, node->version, EG_THREADS_VERSION);
    if (node->draining)
        return cli_fail(CLI_EXIT_FAILED, "%s is draining and takes no new programs; use another node", addr->text);
    if (node->slots == 0)
        return cli_fail(CLI_EXIT_FAILED, "%s offers no slots; use another node", addr->text);
    if (node->page_bytes != page_bytes)
        return cli_fail(CLI_EXIT_FAILED, "node %s has pages of %" PRIu32 " bytes, here they have %ld; use another node", addr->text,
                        node->page_bytes, page_bytes);
    eg_cpu_read(&here);
    memcpy(&there, node->cpu.data, node->cpu.len < sizeof there ? node->cpu.len : sizeof there);
    if (node->cpu.len != sizeof there || there.version != here.version)
        return cli_fail(CLI_EXIT_FAILED, "node %s describes its processor in a way that this endgame does not know; install the same "
                                         "endgame on both sides",
                        addr->text);
    if (!eg_cpu_covers(&here, &there, why, sizeof why))
        return cli_fail(CLI_EXIT_FAILED, "node %s cannot run this machine's threads: %s; use another node", addr->text, why);
    if (eg_cpu_vdso_sum(vdso) != 0)
        return cli_fail(CLI_EXIT_FAILED, "this machine's kernel gives no vDSO, or /proc is not there: threads cannot run elsewhere");
    if (node->vdso_sum.len != sizeof vdso || memcmp(node->vdso_sum.data, vdso, sizeof vdso) != 0) {
        uname(&name);
        return cli_fail(CLI_EXIT_FAILED, "node %s runs another kernel (%.64s, here %s): not supported yet", addr->text,
                        printable(node->kernel), name.release);
    }
    return 0;
}

/* Another boot is another machine, or another life of it: its clocks are not ours. */
static bool same_boot(const char *there)
{
    char here[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file && !fgets(here, sizeof here, file))
        *here = 0;
    if (file)
        fclose(file);
    here[strcspn(here, "\n")] = 0;
    return *here && strcmp(here, there) == 0;
}

static int check_node(struct eg_addr *addr, uint32_t *ret_slots, uint32_t *ret_flags)
{
    char why[512];
    Endgame__Node body = ENDGAME__NODE__INIT;
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Reply *reply = NULL;
    request.body_case = ENDGAME__REQUEST__BODY_NODE;
    request.node = &body;
    int error = cli_verbs_call(addr, &request, NODE_TIMEOUT_MS, &reply, why, sizeof why);
    if (error == -EREMOTEIO)
        return cli_fail(CLI_EXIT_FAILED, "%s is not a compute node (a memory server is named with --memserver); start "
                                         "endgame-compute there, or check the address",
                        addr->text);
    if (error)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    int status;
    if (reply->body_case == ENDGAME__REPLY__BODY_NODE)
        status = judge(addr, reply->node);
    else
        status = cli_fail(CLI_EXIT_FAILED, "%s does not answer as a compute node should; is it another service?", addr->text);
    if (!status) {
        *ret_slots = reply->node->slots;
        *ret_flags = same_boot(reply->node->boot_id) ? 0 : EG_HELLO_OTHER_CLOCK;
    }
    endgame__reply__free_unpacked(reply, NULL);
    return status;
}

int cli_compute_check(struct cli_compute *compute)
{
    int status = 0;
    if (compute->n_embedded && cli_compute_find(compute->daemon, sizeof compute->daemon) != 0)
        return cli_fail(CLI_EXIT_FAILED, "no compute daemon at %s; install endgame whole, or set ENDGAME_COMPUTE", compute->daemon);
    for (int i = 0; i < compute->n_nodes && !status; i++)
        status = check_node(&compute->nodes[i], &compute->slots[i], &compute->flags[i]);
    for (int i = 0; i < compute->n_nodes && !status; i++)
        if (compute->nodes[i].kind == EG_ADDR_RDMA && cli_relay_find(compute->relay, sizeof compute->relay) != 0)
            status = cli_fail(CLI_EXIT_FAILED, "no relay for rdma: at %s; install endgame whole, or set ENDGAME_RELAY", compute->relay);
    return status;
}

void cli_compute_relays(const struct cli_compute *compute, struct cli_embedded *embedded)
{
    for (int i = 0; i < compute->n_nodes; i++) {
        const struct eg_addr *addr = &compute->nodes[i];
        if (addr->kind != EG_ADDR_RDMA)
            continue;
        int n = embedded->n[CLI_EMBEDDED_RELAY]++;
        /* By number: where the node was checked. */
        eg_addr_format(EG_ADDR_RDMA, (const struct sockaddr *)&addr->sa, addr->len_bytes, embedded->relay[n].to, sizeof embedded->relay[n].to);
        embedded->relay[n].node = i;
    }
}

/* As the program reaches it. Returns: 0, or CLI_EXIT_FAILED after one line. */
static int by_relay(const struct cli_pool *pool, int node, const struct eg_addr *addr, struct eg_addr *ret_addr)
{
    char text[sizeof pool->dir + 32], why[256];
    *ret_addr = *addr;
    if (addr->kind != EG_ADDR_RDMA)
        return 0;
    snprintf(text, sizeof text, "unix:%s/" CLI_POOL_RELAY_SOCKET, pool->dir, node);
    if (eg_addr_parse(text, 0, ret_addr, why, sizeof why) != 0)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    memcpy(ret_addr->text, addr->text, sizeof ret_addr->text);
    return 0;
}

/* Who waits for a moment by reading a word again and again: with threads on nodes that takes the word's page from whoever is about to write it, and the
 * processor from who shares it, when the slots are this machine's. OpenMP's runtimes do so for milliseconds as long as there seem to be processors enough.
 * A thousand turns, libgomp's own number when there are not, cost little at home (`auto`). */
static void openmp_waits(enum eg_threads_mode mode)
{
    if (getenv("OMP_WAIT_POLICY"))
        return;
    setenv("GOMP_SPINCOUNT", "1000", 0);
    if (mode == EG_THREADS_REMOTE)
        setenv("OMP_WAIT_POLICY", "passive", 0);
}

int cli_compute_publish(struct cli_compute *compute, struct cli_pool *pool)
{
    for (int i = 0; i < compute->n_embedded; i++) {
        char text[sizeof pool->dir + 32], why[256];
        int n = compute->n_nodes, status;
        snprintf(text, sizeof text, "unix:%s/" CLI_POOL_COMPUTE_SOCKET, pool->dir, i);
        if (eg_addr_parse(text, 0, &compute->nodes[n], why, sizeof why) != 0)
            return cli_fail(CLI_EXIT_FAILED, "%s", why);
        status = check_node(&compute->nodes[n], &compute->slots[n], &compute->flags[n]);
        if (status)
            return status;
        compute->n_nodes++;
    }
    compute->n_embedded = 0;
    for (int i = 0; i < compute->n_nodes; i++) {
        struct eg_addr addr;
        int status = by_relay(pool, i, &compute->nodes[i], &addr);
        if (status)
            return status;
        cli_pool_add_node(pool, &addr, compute->slots[i], compute->flags[i]);
    }
    pool->map->threads_mode = (uint32_t)(compute->n_nodes && !compute->mode_given ? EG_THREADS_REMOTE : compute->mode);
    if (compute->n_nodes && pool->map->threads_mode != EG_THREADS_HOME)
        openmp_waits((enum eg_threads_mode)pool->map->threads_mode);
    return 0;
}
