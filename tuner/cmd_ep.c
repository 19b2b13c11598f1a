/* moe-tune ep: the expert-parallel layer on several ranks, timed: its parts alone and all of it, every way of running
 * it that is asked for in the same rounds. Starts the ranks itself, or is one of a launcher's. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "ep_record.h"
#include "parse.h"

#define SUMMARY "time the expert-parallel layer on several GPUs, or ranks of the host"
#define EXAMPLE "moe-tune ep --gpus 2 > ep.jsonl"
#define MAX_SKEWS 8

typedef struct ep_arguments {
    const char *table, *device, *net, *match, *db, *ids, *command;
    const char *transports, *returns, *chunks, *comm_sms; /* NULL: not given */
    const char *tokens, *skews;
    int32_t gpus, ranks; /* to start; 0: not given */
    moet_ep_shape shape; /* experts 0: the built-in ones */
    moet_numerics numerics;
    int32_t rounds, timeout_ms;
    bool is_checked, is_again;
    moet_output_format format;
} ep_arguments;

/* ---- options ---- */

enum option_key {
    KEY_GPUS = 256,
    KEY_RANKS,
    KEY_DEVICE,
    KEY_NET,
    KEY_TABLE,
    KEY_TRANSPORT,
    KEY_RETURNS,
    KEY_CHUNKS,
    KEY_COMM_SMS,
    KEY_EXPERTS,
    KEY_CHOICES,
    KEY_HIDDEN,
    KEY_INTER,
    KEY_TOKENS,
    KEY_SKEW,
    KEY_IDS,
    KEY_MATCH,
    KEY_NUMERICS,
    KEY_CHECK,
    KEY_ROUNDS,
    KEY_DB,
    KEY_AGAIN,
    KEY_TIMEOUT,
    KEY_FORMAT
};

static const struct argp_option options[] = {
    {.name = "gpus", .key = KEY_GPUS, .arg = "N", .doc = "Start a process for each of the first N GPUs of this host"},
    {.name = "ranks", .key = KEY_RANKS, .arg = "N", .doc = "Start N processes on --device (default host)"},
    {.name = "device",
     .key = KEY_DEVICE,
     .arg = "SPEC",
     .doc = "Under a launcher: auto (a GPU by the rank on its host, else the host), host or cuda:N"},
    {.name = "net", .key = KEY_NET, .arg = "NET", .doc = "How ranks meet: auto, socket or mpi (default auto)"},
    {.name = "transport",
     .key = KEY_TRANSPORT,
     .arg = "LIST",
     .doc = "How rows travel: lsa, lsa_joint, allgather, exchange, bound, nccl_ep or auto (default auto; with --db "
            "auto,exchange, and for sums on one host allgather)"},
    {.name = "returns",
     .key = KEY_RETURNS,
     .arg = "LIST",
     .doc = "What comes back: rows, sums (default rows under train, sums under fast)"},
    {.name = "chunks",
     .key = KEY_CHUNKS,
     .arg = "LIST",
     .doc = "Parts that overlap, 1 to 4 (default 1; with --db 1,2,3)"},
    {.name = "comm-sms",
     .key = KEY_COMM_SMS,
     .arg = "LIST",
     .doc = "With more chunks than one: SMs for the rows' travel (default 16)"},
    {.name = "table",
     .key = KEY_TABLE,
     .arg = "DIR",
     .doc = "The table of the experts' GEMMs; without --db, --transport, --chunks and --comm-sms also of how the layer "
            "is run"},
    {.name = "experts", .key = KEY_EXPERTS, .arg = "N", .doc = "Experts of the layer; with --hidden and --inter"},
    {.name = "choices", .key = KEY_CHOICES, .arg = "N", .doc = "Experts of a token (default 8)"},
    {.name = "hidden", .key = KEY_HIDDEN, .arg = "N", .doc = "Hidden size"},
    {.name = "inter", .key = KEY_INTER, .arg = "N", .doc = "Intermediate size"},
    {.name = "tokens", .key = KEY_TOKENS, .arg = "LIST", .doc = "Tokens on each rank (default 256,1024,4096,16384)"},
    {.name = "skew",
     .key = KEY_SKEW,
     .arg = "LIST",
     .doc = "uniform, or zipf:S, whose i-th expert weighs i^-S (default uniform,zipf:0.5)"},
    {.name = "ids",
     .key = KEY_IDS,
     .arg = "DIR",
     .doc =
         "What tokens choose is not drawn but read from DIR/NAME-TOKENS-SKEW.npy, integers [ranks, tokens, choices]"},
    {.name = "match", .key = KEY_MATCH, .arg = "TEXT", .doc = "Only shapes whose name holds TEXT"},
    {.name = "numerics", .key = KEY_NUMERICS, .arg = "MODE", .doc = "train or fast (default train)"},
    {.name = "check", .key = KEY_CHECK, .doc = "First compare every result's bits with one rank's"},
    {.name = "rounds", .key = KEY_ROUNDS, .arg = "N", .doc = "Rounds a point (default 21)"},
    {.name = "db",
     .key = KEY_DB,
     .arg = "FILE",
     .doc = "Keep every time in this database, for `moe-tune emit`; points that it has already are passed over"},
    {.name = "again", .key = KEY_AGAIN, .doc = "With --db: measure these points too, in place of what it has"},
    {.name = "timeout", .key = KEY_TIMEOUT, .arg = "TIME", .doc = "A rank waits for another so long (default 30s)"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default json)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    ep_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_GPUS:
        status = moet_parse_integer(arg, "--gpus", 1, MOET_EP_MAX_RANKS, &number);
        a->gpus = (int32_t)number;
        break;
    case KEY_RANKS:
        status = moet_parse_integer(arg, "--ranks", 1, MOET_EP_MAX_RANKS, &number);
        a->ranks = (int32_t)number;
        break;
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_NET:
        a->net = arg;
        break;
    case KEY_TABLE:
        a->table = arg;
        break;
    case KEY_TRANSPORT:
        a->transports = arg;
        break;
    case KEY_RETURNS:
        a->returns = arg;
        break;
    case KEY_CHUNKS:
        a->chunks = arg;
        break;
    case KEY_COMM_SMS:
        a->comm_sms = arg;
        break;
    case KEY_EXPERTS:
        status = moet_parse_integer(arg, "--experts", 1, MOET_MAX_EXPERTS, &number);
        a->shape.experts = (int32_t)number;
        break;
    case KEY_CHOICES:
        status = moet_parse_integer(arg, "--choices", 1, MOET_MAX_CHOICES, &number);
        a->shape.choices = (int32_t)number;
        break;
    case KEY_HIDDEN:
        status = moet_parse_integer(arg, "--hidden", 8, MOET_MAX_DIM, &number);
        a->shape.hidden = (int32_t)number;
        break;
    case KEY_INTER:
        status = moet_parse_integer(arg, "--inter", 8, MOET_MAX_DIM, &number);
        a->shape.inter = (int32_t)number;
        break;
    case KEY_TOKENS:
        a->tokens = arg;
        break;
    case KEY_SKEW:
        a->skews = arg;
        break;
    case KEY_IDS:
        a->ids = arg;
        break;
    case KEY_MATCH:
        a->match = arg;
        break;
    case KEY_NUMERICS:
        status = moet_parse_numerics(arg, "--numerics", &a->numerics);
        break;
    case KEY_CHECK:
        a->is_checked = true;
        break;
    case KEY_ROUNDS:
        status = moet_parse_integer(arg, "--rounds", 3, 1000, &number);
        a->rounds = (int32_t)number;
        break;
    case KEY_DB:
        a->db = arg;
        break;
    case KEY_AGAIN:
        a->is_again = true;
        break;
    case KEY_TIMEOUT:
        status = moet_parse_time(arg, "--timeout", &number);
        if (status == MOET_OK && (number < 1000000 || number > 86400 * INT64_C(1000000000)))
            argp_error(state, "--timeout: from 0.001s to 24h");
        a->timeout_ms = (int32_t)(number / 1000000);
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->format);
        break;
    case ARGP_KEY_END:
        if (a->gpus && a->ranks) argp_error(state, "give either --gpus N or --ranks N");
        if (a->gpus && a->device) argp_error(state, "--gpus names the devices: leave --device out, or give --ranks N");
        if ((a->shape.experts || a->shape.hidden || a->shape.inter) &&
            !(a->shape.experts && a->shape.hidden && a->shape.inter))
            argp_error(state, "give --experts, --hidden and --inter together");
        if (a->is_again && !a->db) argp_error(state, "--again is of --db FILE");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .doc = MOET_COMMAND_DOC(
        "Times the expert-parallel layer on several GPUs, or ranks of the host.", EXAMPLE,
        "Three public shapes, tokens and skews as listed above, where no shape is given; on the host a small one. One "
        "row for each way of running the layer; dispatch_us, combine_us and experts_us are the parts alone, in one "
        "chunk with all SMs, layer_over_max is layer_us over the longer of both exchanges and the experts. Times are "
        "medians over rounds of the slowest rank's.\n\nUnder a launcher each process is one rank:\n"
        "  mpirun -n 2 moe-tune ep\n  torchrun --no-python --nproc_per_node 2 moe-tune ep\n  srun -n 2 moe-tune ep\n"
        "Several hosts meet at MASTER_ADDR and MASTER_PORT. docs/ep.md tells more."),
};

/* ---- points and variants ---- */

/* The three shapes of bench/peers/ep.py, and one for the host. */
static const struct {
    moet_ep_shape shape;
    bool is_host;
} shapes[] = {
    {{.name = "qwen3-30b", .experts = 128, .choices = 8, .hidden = 2048, .inter = 768}, false},
    {{.name = "qwen3-235b", .experts = 128, .choices = 8, .hidden = 4096, .inter = 1536}, false},
    {{.name = "deepseek-v3/quarter", .experts = 64, .choices = 8, .hidden = 7168, .inter = 2048}, false},
    {{.name = "small", .experts = 16, .choices = 4, .hidden = 256, .inter = 128}, true},
};

static moet_status parse_skew(const char *text, moet_ep_shape *point)
{
    point->zipf = 0;
    snprintf(point->skew, sizeof point->skew, "uniform");
    if (strcmp(text, "uniform") == 0) return MOET_OK;
    if (strncmp(text, "zipf:", 5) != 0)
        return moet_fail(MOET_INVALID, "--skew '%.32s': uniform or zipf:S, as zipf:0.5", text);
    MOET_TRY(moet_parse_decimal(text + 5, "--skew zipf", 0, 4, &point->zipf));
    snprintf(point->skew, sizeof point->skew, "zipf:%.6g", point->zipf); /* one spelling, by which it is stored */
    return MOET_OK;
}

static moet_status parse_returns(const char *text, moet_ep_returns *returns)
{
    for (int32_t i = 0; i < MOET_EP_RETURNS_COUNT; i++) {
        if (strcmp(text, moet_ep_returns_name((moet_ep_returns)i)) != 0) continue;
        *returns = (moet_ep_returns)i;
        return MOET_OK;
    }
    return moet_fail(MOET_INVALID, "--returns '%.32s': rows or sums", text);
}

/* comm_sms says something of several chunks only, and nothing where copies carry the rows. */
static moet_status add_variants(moet_ep_variants *v, const moet_ep_variant *of, const moet_int_list *chunks,
                                const moet_int_list *comm_sms)
{
    for (int32_t c = 0; c < chunks->count; c++) {
        const bool is_asked = chunks->values[c] > 1 && strcmp(of->transport, "allgather") != 0;
        for (int32_t s = 0; s < (is_asked ? comm_sms->count : 1); s++) {
            if (v->count == MOET_EP_MAX_VARIANTS)
                return moet_fail(MOET_INVALID,
                                 "more than %d ways of running the layer: fewer transports, returns, chunks or "
                                 "comm-sms",
                                 MOET_EP_MAX_VARIANTS);
            moet_ep_variant *to = &v->list[v->count++];
            *to = *of;
            to->chunks = (int32_t)chunks->values[c];
            to->comm_sms = is_asked ? (int32_t)comm_sms->values[s] : 0;
        }
    }
    return MOET_OK;
}

/* What is kept is compared with what runs without a table: that is always among it. */
static moet_status add_default(moet_ep_variants *v, moet_ep_returns returns)
{
    const moet_ep_variant of = {.transport = "auto", .returns = returns};
    int64_t one = 1;
    for (int32_t i = 0; i < v->count; i++) {
        if (v->list[i].returns == returns && moet_ep_bench_is_default(&v->list[i])) return MOET_OK;
    }
    return add_variants(v, &of, &(moet_int_list){.count = 1, .values = &one}, &(moet_int_list){0});
}

static moet_status list_variants(const ep_arguments *a, moet_ep_variants *v)
{
    const bool is_one_host = a->gpus || a->ranks;
    const char *const transports_text = a->transports          ? a->transports
                                        : a->db && is_one_host ? "auto,exchange,allgather"
                                        : a->db                ? "auto,exchange"
                                                               : "auto";
    const char *const chunks_text = a->chunks ? a->chunks : a->db ? "1,2,3" : "1";
    const char *const returns_text = a->returns ? a->returns : a->numerics == MOET_NUMERICS_FAST ? "sums" : "rows";
    moet_int_list chunks = {0}, comm_sms = {0};
    moet_text_list transports = {0}, returns = {0};
    v->count = 0;
    moet_status status = moet_parse_list(chunks_text, "--chunks", 1, MOET_EP_MAX_CHUNKS, &chunks);
    if (status == MOET_OK) status = moet_parse_list(a->comm_sms ? a->comm_sms : "16", "--comm-sms", 1, 4096, &comm_sms);
    if (status == MOET_OK) status = moet_parse_texts(transports_text, "--transport", &transports);
    if (status == MOET_OK) status = moet_parse_texts(returns_text, "--returns", &returns);
    for (int32_t t = 0; t < transports.count && status == MOET_OK; t++) {
        for (int32_t r = 0; r < returns.count && status == MOET_OK; r++) {
            moet_ep_variant of = {0};
            const int length = snprintf(of.transport, sizeof of.transport, "%s", transports.texts[t]);
            status = parse_returns(returns.texts[r], &of.returns);
            if (status == MOET_OK && length >= (int)sizeof of.transport)
                status = moet_fail(MOET_INVALID, "--transport: '%.100s' is too long", transports.texts[t]);
            const bool is_for_sums = strcmp(of.transport, "allgather") == 0 || strcmp(of.transport, "lsa_joint") == 0;
            if (!a->transports && is_for_sums && of.returns == MOET_EP_RETURNS_ROWS) continue;
            if (status == MOET_OK) status = add_variants(v, &of, &chunks, &comm_sms);
        }
    }
    for (int32_t i = 0; i < v->count && a->db && status == MOET_OK; i++) status = add_default(v, v->list[i].returns);
    moet_int_list_release(&chunks);
    moet_int_list_release(&comm_sms);
    moet_text_list_release(&transports);
    moet_text_list_release(&returns);
    return status;
}

static moet_status run_point(moet_ep_bench *bench, moet_ep_record *record, const moet_ep_shape *point,
                             const moet_ep_variants *variants)
{
    moet_ep_variants plan;
    MOET_TRY(moet_ep_record_plan(record, point, variants, &plan));
    return plan.count > 0 ? moet_ep_bench_point(bench, point, plan.list, plan.count) : MOET_OK;
}

static moet_status check_shape(const moet_ep_shape *shape, int32_t ranks)
{
    if (shape->choices > shape->experts)
        return moet_fail(MOET_INVALID, "--choices %d are more than %d experts", shape->choices, shape->experts);
    if (shape->experts % ranks)
        return moet_fail(MOET_INVALID,
                         "%d experts of %s cannot be spread over %d ranks evenly: give --experts, or other "
                         "--gpus or --ranks",
                         shape->experts, shape->name, ranks);
    return MOET_OK;
}

static moet_status run_shape(const ep_arguments *a, moet_ep_bench *bench, moet_ep_record *record,
                             const moet_ep_shape *shape, const moet_ep_variants *variants)
{
    const bool is_small = strcmp(shape->name, "small") == 0;
    moet_int_list tokens = {0};
    moet_text_list skews = {0};
    MOET_TRY(check_shape(shape, bench->as.ranks));
    moet_status status = moet_parse_list(a->tokens  ? a->tokens
                                         : is_small ? "16,64"
                                                    : "256,1024,4096,16384",
                                         "--tokens", 1, MOET_MAX_ROWS, &tokens);
    if (status == MOET_OK) status = moet_parse_texts(a->skews, "--skew", &skews);
    for (int32_t t = 0; t < tokens.count && status == MOET_OK; t++) {
        for (int32_t s = 0; s < skews.count && status == MOET_OK; s++) {
            moet_ep_shape point = *shape;
            point.tokens = tokens.values[t];
            status = parse_skew(skews.texts[s], &point);
            if (status == MOET_OK) status = run_point(bench, record, &point, variants);
        }
    }
    moet_int_list_release(&tokens);
    moet_text_list_release(&skews);
    return status;
}

static moet_status run_shapes(const ep_arguments *a, moet_ep_bench *bench, moet_ep_record *record,
                              const moet_ep_variants *variants)
{
    const bool is_host = strcmp(bench->handle->device->backend->name, "host") == 0;
    moet_status status = MOET_OK;
    int32_t found = 0;
    if (a->shape.experts > 0) return run_shape(a, bench, record, &a->shape, variants);
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes) && status == MOET_OK; i++) {
        if (shapes[i].is_host != is_host || (a->match && !strstr(shapes[i].shape.name, a->match))) continue;
        found++;
        status = run_shape(a, bench, record, &shapes[i].shape, variants);
    }
    if (found == 0) return moet_fail(MOET_INVALID, "--match %.32s: no shape has that in its name", a->match);
    return status;
}

/* ---- one rank ---- */

/* The rank's device; local: its number on this host. */
static moet_status open_handle(const ep_arguments *a, int32_t local, moet_handle **handle)
{
    char spec[32];
    const char *device = a->gpus ? "cuda" : a->ranks && !a->device ? "host" : a->device ? a->device : "auto";
    if (strcmp(device, "auto") == 0) {
        const moet_backend *cuda = moet_backend_find("cuda");
        int32_t count = 0;
        if (cuda) MOET_TRY(cuda->count(&count));
        if (count == 0) return moet_open(a->table, "host", handle);
        snprintf(spec, sizeof spec, "cuda:%d", local % count); /* a launcher may show each rank its own GPU only */
    } else {
        snprintf(spec, sizeof spec, a->gpus ? "%.20s:%d" : "%.20s", device, local);
    }
    return moet_open(a->table, spec, handle);
}

static int run_rank(const ep_arguments *a, const moet_ep_options *as, int32_t local)
{
    moet_handle *handle = NULL;
    moet_ep_record record = {.db = a->db,
                             .command = a->command,
                             .is_again = a->is_again,
                             .by_table = !a->db && !a->transports && !a->chunks && !a->comm_sms};
    moet_ep_bench bench = {.as = *as,
                           .numerics = a->numerics,
                           .rounds = a->rounds,
                           .ids_dir = a->ids,
                           .is_checked = a->is_checked,
                           .keep = moet_ep_record_put,
                           .keep_context = &record};
    moet_ep_variants variants;
    bench.as.timeout_ms = a->timeout_ms;
    if (a->net && snprintf(bench.as.net, sizeof bench.as.net, "%s", a->net) >= (int)sizeof bench.as.net)
        return moet_command_fail(moet_fail(MOET_INVALID, "--net: auto, socket or mpi"));
    moet_status status = list_variants(a, &variants);
    if (status == MOET_OK) status = open_handle(a, local, &handle);
    if (status == MOET_OK) status = moet_ep_bench_open(&bench, handle);
    if (status == MOET_OK) status = moet_ep_record_open(&record, &bench);
    if (status == MOET_OK && as->rank == 0)
        status = moet_output_create(stdout, a->format, moet_ep_columns, MOET_EP_COLUMNS, &bench.out);
    if (status == MOET_OK) status = run_shapes(a, &bench, &record, &variants);
    char why[1024];
    snprintf(why, sizeof why, "%s", moet_last_error());
    const moet_status printed = moet_output_finish(bench.out);
    if (status == MOET_OK && record.skipped > 0)
        moet_command_note("%d points are in '%s' already; --again measures them again", record.skipped, a->db);
    moet_ep_record_close(&record);
    if (handle && handle->device->is_stuck) { /* what waits for it would not end */
        const int code = moet_command_fail(moet_fail(status, "rank %d: %s", as->rank, why));
        fflush(NULL);
        _exit(code);
    }
    moet_ep_bench_close(&bench);
    moet_close(handle);
    if (status == MOET_OK) return moet_command_fail(printed);
    return moet_command_fail(moet_fail(status, "rank %d: %s", as->rank, why));
}

/* ---- a process for each rank ---- */

/* Ranks end by themselves when one does; their messages are on stderr. */
static int await_ranks(const pid_t *children, int32_t count)
{
    int code = MOET_EXIT_OK;
    for (int32_t r = 0; r < count; r++) {
        int state = 0;
        while (waitpid(children[r], &state, 0) < 0 && errno == EINTR) continue;
        if (WIFSIGNALED(state)) moet_command_note("rank %d was ended by signal %d", r, WTERMSIG(state));
        const int own = WIFEXITED(state) ? WEXITSTATUS(state) : MOET_EXIT_FAILED;
        if (own > code) code = own; /* 3, a wrong result, before what the others say of it */
    }
    return code;
}

static int start_ranks(const ep_arguments *a, int32_t count)
{
    moet_ep_options as = {.ranks = count};
    int32_t port = 0;
    const moet_status status = moet_ep_comm_find_port(&port);
    if (status != MOET_OK) return moet_command_fail(status);
    snprintf(as.rendezvous, sizeof as.rendezvous, "127.0.0.1:%d", port);
    pid_t *children = calloc((size_t)count, sizeof *children);
    if (!children) return moet_command_fail(moet_fail(MOET_NO_MEMORY, "ep: out of host memory"));
    fflush(NULL);
    int32_t started = 0;
    for (; started < count; started++) { /* nothing has touched a device or started a thread yet */
        as.rank = started;
        children[started] = fork();
        if (children[started] == 0) {
            const int code = run_rank(a, &as, started);
            fflush(NULL);
            _exit(code);
        }
        if (children[started] < 0) break;
    }
    if (started < count) moet_command_note("starting rank %d: %s", started, strerror(errno));
    for (int32_t r = 0; r < started && started < count; r++) kill(children[r], SIGTERM);
    const int code = await_ranks(children, started);
    free(children);
    return started < count ? MOET_EXIT_FAILED : code;
}

/* Before ranks are started, so that a database that cannot be used is one error, not each rank's. */
static moet_status check_db(const ep_arguments *a)
{
    moet_store *store = NULL;
    if (!a->db) return MOET_OK;
    const moet_status status = moet_store_open(a->db, MOET_STORE_WRITE, &store);
    moet_store_close(store);
    return status;
}

/* Likewise, as far as shapes are known before the devices are. */
static moet_status check_shapes(const ep_arguments *a, int32_t ranks)
{
    const bool is_host = !a->gpus && (!a->device || strcmp(a->device, "host") == 0);
    if (a->shape.experts > 0) return check_shape(&a->shape, ranks);
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) {
        const bool is_run = shapes[i].is_host == is_host && (!a->match || strstr(shapes[i].shape.name, a->match));
        if (is_run) MOET_TRY(check_shape(&shapes[i].shape, ranks));
    }
    return MOET_OK;
}

static int run_parsed(const ep_arguments *a)
{
    moet_ep_options as = {0};
    int32_t local = 0;
    moet_ep_variants variants;
    if (list_variants(a, &variants) != MOET_OK) return moet_command_fail(MOET_INVALID); /* once, not on each rank */
    moet_status status = moet_ep_launcher(&as, &local);
    if (status == MOET_OK && (a->gpus || a->ranks))
        return moet_command_fail(moet_fail(MOET_INVALID, "rank and ranks come from a launcher's variables here: leave "
                                                         "--gpus and --ranks out, or unset them"));
    if (status == MOET_OK) return run_rank(a, &as, local);
    if (status != MOET_NOT_FOUND) return moet_command_fail(status);
    if (!a->gpus && !a->ranks)
        return moet_command_fail(moet_fail(MOET_INVALID, "give --gpus N or --ranks N, or start the ranks by mpirun, "
                                                         "torchrun or srun"));
    status = check_shapes(a, a->gpus ? a->gpus : a->ranks);
    if (status == MOET_OK) status = check_db(a);
    return status == MOET_OK ? start_ranks(a, a->gpus ? a->gpus : a->ranks) : moet_command_fail(status);
}

static int run_ep(int argc, char **argv)
{
    char *command = moet_command_line(argc, argv); /* before argp orders it */
    ep_arguments a = {.command = command ? command : "",
                      .skews = "uniform,zipf:0.5",
                      .shape = {.name = "given", .choices = 8},
                      .rounds = 21,
                      .format = MOET_FORMAT_JSON};
    int code = moet_command_parse(&argp, argc, argv, &a);
    signal(SIGPIPE, SIG_IGN);
    if (code == MOET_EXIT_OK) code = run_parsed(&a);
    free(command);
    return code;
}

const moet_command moet_command_ep = {
    .name = "ep",
    .summary = SUMMARY,
    .example = EXAMPLE,
    .argp = &argp,
    .run = run_ep,
};
