/* moe-tune compare: two benches of the same workloads, point by point. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_file.h"
#include "command.h"
#include "output.h"
#include "parse.h"

#define SUMMARY "compare two benches point by point, and by geometric mean"
#define EXAMPLE "moe-tune compare bench.jsonl peers.jsonl --at-least 1.0"
#define DEFAULT_PEER "moe-tune"
#define MAX_PEERS 32

typedef struct compare_arguments {
    const char *a_path, *b_path;
    const char *peer; /* NULL: DEFAULT_PEER, or A's only one */
    moet_text_list against;
    double at_least; /* 0: not asked */
    moet_output_format format;
} compare_arguments;

enum option_key { KEY_PEER = 256, KEY_AGAINST, KEY_AT_LEAST, KEY_FORMAT };

static const struct argp_option options[] = {
    {.name = "peer",
     .key = KEY_PEER,
     .arg = "NAME",
     .doc = "The peer of A (default " DEFAULT_PEER ", or A's only one)"},
    {.name = "against", .key = KEY_AGAINST, .arg = "NAMES", .doc = "The peers of B (default all but A's own)"},
    {.name = "at-least",
     .key = KEY_AT_LEAST,
     .arg = "R",
     .doc = "Exit with 4 if the geometric mean of the ratios is below R"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default text)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    compare_arguments *a = state->input;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_PEER:
        a->peer = arg;
        break;
    case KEY_AGAINST:
        moet_text_list_release(&a->against);
        status = moet_parse_texts(arg, "--against", &a->against);
        break;
    case KEY_AT_LEAST:
        status = moet_parse_decimal(arg, "--at-least", 1e-6, 1e6, &a->at_least);
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->format);
        break;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1) {
            argp_error(state, "give two files");
        }
        *(state->arg_num == 0 ? &a->a_path : &a->b_path) = arg;
        break;
    case ARGP_KEY_END:
        if (a->b_path == NULL) {
            argp_error(state, "give two files");
        }
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- joining ---- */

/* Ratios of one kind: all points against the best, or one peer. */
typedef struct ratio_sum {
    char op[16], peer[64];
    int32_t count, slower; /* slower: A is the slower one */
    double log_sum, least, most;
} ratio_sum;

typedef struct comparison {
    const compare_arguments *arguments;
    const char *peer;
    moet_bench_file a, b;
    int32_t unmatched;
    int32_t sum_count;
    ratio_sum sums[MAX_PEERS * 4];
    ratio_sum all; /* against the best of B */
} comparison;

static void sum_ratio(ratio_sum *sum, double ratio)
{
    sum->least = sum->count == 0 || ratio < sum->least ? ratio : sum->least;
    sum->most = sum->count == 0 || ratio > sum->most ? ratio : sum->most;
    sum->log_sum += log(ratio);
    sum->slower += ratio < 1;
    sum->count++;
}

static double geomean(const ratio_sum *sum) { return sum->count > 0 ? exp(sum->log_sum / sum->count) : (double)NAN; }

static ratio_sum *find_sum(comparison *c, const char *op, const char *peer)
{
    for (int32_t i = 0; i < c->sum_count; i++) {
        if (strcmp(c->sums[i].op, op) == 0 && strcmp(c->sums[i].peer, peer) == 0) {
            return &c->sums[i];
        }
    }
    if (c->sum_count == MOET_COUNT_OF(c->sums)) {
        return NULL;
    }
    ratio_sum *sum = &c->sums[c->sum_count++];
    *sum = (ratio_sum){0};
    snprintf(sum->op, sizeof sum->op, "%s", op);
    snprintf(sum->peer, sizeof sum->peer, "%s", peer);
    return sum;
}

static bool holds_peer(const moet_bench_file *file, const char *peer)
{
    for (int32_t i = 0; i < file->count; i++) {
        if (strcmp(file->points[i].peer, peer) == 0) {
            return true;
        }
    }
    return false;
}

/* Names those that there are. */
static moet_status fail_peer(const char *path, const moet_bench_file *file, const char *wanted, const char *hint)
{
    char names[400] = "";
    for (int32_t i = 0; i < file->count; i++) {
        const char *peer = file->points[i].peer;
        const moet_bench_file before = {.points = file->points, .count = i};
        const size_t used = strlen(names);
        if (!holds_peer(&before, peer) && used + strlen(peer) + 3 < sizeof names) {
            snprintf(names + used, sizeof names - used, "%s%s", used > 0 ? ", " : "", peer);
        }
    }
    return moet_fail(MOET_INVALID, "%s holds no peer %s but %s; %s", path, wanted, names, hint);
}

/* The peer of A that is compared. */
static moet_status choose_peer(comparison *c)
{
    const char *wanted = c->arguments->peer != NULL ? c->arguments->peer : DEFAULT_PEER;
    const char *first = c->a.points[0].peer;
    bool only_one = true;
    for (int32_t i = 0; i < c->a.count; i++) {
        only_one = only_one && strcmp(c->a.points[i].peer, first) == 0;
    }
    const bool is_there = holds_peer(&c->a, wanted);
    if (!is_there && (c->arguments->peer != NULL || !only_one)) {
        return fail_peer(c->arguments->a_path, &c->a, wanted, "--peer names the one to compare");
    }
    c->peer = is_there ? wanted : first;
    return MOET_OK;
}

/* Some of those that are asked for may be missing, not all. */
static moet_status check_against(const comparison *c)
{
    const moet_text_list *against = &c->arguments->against;
    for (int32_t i = 0; i < against->count; i++) {
        if (holds_peer(&c->b, against->texts[i])) {
            return MOET_OK;
        }
    }
    return against->count == 0
               ? MOET_OK
               : fail_peer(c->arguments->b_path, &c->b, against->texts[0], "--against names those to compare with");
}

/* Whether a peer of B takes part. One file may be compared with itself: a peer is not its own rival there. */
static bool is_rival(const comparison *c, const char *peer)
{
    const moet_text_list *against = &c->arguments->against;
    for (int32_t i = 0; i < against->count; i++) {
        if (strcmp(against->texts[i], peer) == 0) {
            return true;
        }
    }
    if (against->count > 0) {
        return false;
    }
    if (strcmp(peer, c->peer) != 0) {
        return true;
    }
    /* The same peer in both files: two versions of it, if B has nothing else. */
    for (int32_t i = 0; i < c->b.count; i++) {
        if (strcmp(c->b.points[i].peer, c->peer) != 0) {
            return false;
        }
    }
    return true;
}

static const moet_output_column columns[] = {
    {"name", MOET_OUTPUT_TEXT, 0},   {"rows", MOET_OUTPUT_INTEGER, 0}, {"skew", MOET_OUTPUT_TEXT, 0},
    {"op", MOET_OUTPUT_TEXT, 0},     {"a_us", MOET_OUTPUT_REAL, 2},    {"b_us", MOET_OUTPUT_REAL, 2},
    {"b_peer", MOET_OUTPUT_TEXT, 0}, {"ratio", MOET_OUTPUT_REAL, 3},
};

/* Joins one point of A with every rival's; prints it beside the best. */
static moet_status join_point(comparison *c, const moet_bench_point *point, moet_output *out)
{
    const moet_bench_point *best = NULL;
    for (int32_t i = 0; i < c->b.count; i++) {
        const moet_bench_point *rival = &c->b.points[i];
        if (!moet_bench_point_matches(point, rival) || !is_rival(c, rival->peer)) {
            continue;
        }
        ratio_sum *sum = find_sum(c, point->op, rival->peer);
        if (sum == NULL) {
            return moet_fail(MOET_INVALID, "%s: more than %d peers; choose some by --against", c->arguments->b_path,
                             MAX_PEERS);
        }
        sum_ratio(sum, rival->time_us / point->time_us);
        best = best == NULL || rival->time_us < best->time_us ? rival : best;
    }
    if (best == NULL) {
        c->unmatched++;
        return MOET_OK;
    }
    double ratio = best->time_us / point->time_us;
    ratio_sum *sum = find_sum(c, point->op, ""); /* "": the best of all */
    if (sum != NULL) {
        sum_ratio(sum, ratio);
    }
    sum_ratio(&c->all, ratio);
    moet_output_text(out, point->name);
    moet_output_integer(out, point->rows);
    moet_output_text(out, point->skew);
    moet_output_text(out, point->op);
    moet_output_real(out, point->time_us);
    moet_output_real(out, best->time_us);
    moet_output_text(out, best->peer);
    moet_output_real(out, ratio);
    return MOET_OK;
}

static void print_sum(FILE *to, const char *op, const char *peer, const ratio_sum *sum)
{
    fprintf(to, "%-5s %-24s geomean %.3f  min %.3f  max %.3f  slower at %d of %d\n", op, peer, geomean(sum), sum->least,
            sum->most, sum->slower, sum->count);
}

/* The means: data as text, beside data otherwise. */
static void print_sums(const comparison *c)
{
    FILE *to = c->arguments->format == MOET_FORMAT_TEXT ? stdout : stderr;
    fprintf(to, "\ntime of B / time of A (%s); above 1: A is faster\n", c->peer);
    for (int32_t i = 0; i < c->sum_count; i++) {
        const ratio_sum *sum = &c->sums[i];
        print_sum(to, sum->op, sum->peer[0] != '\0' ? sum->peer : "best of B", sum);
    }
    print_sum(to, "all", "best of B", &c->all);
}

static moet_status compare(comparison *c)
{
    moet_output *out = NULL;
    MOET_TRY(choose_peer(c));
    MOET_TRY(check_against(c));
    MOET_TRY(moet_output_create(stdout, c->arguments->format, columns, MOET_COUNT_OF(columns), &out));
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < c->a.count && status == MOET_OK; i++) {
        if (strcmp(c->a.points[i].peer, c->peer) == 0) {
            status = join_point(c, &c->a.points[i], out);
        }
    }
    moet_status written = moet_output_finish(out);
    return status == MOET_OK ? written : status;
}

static int judge(const comparison *c)
{
    const compare_arguments *a = c->arguments;
    if (c->unmatched > 0) {
        moet_command_note("%d points of %s have no counterpart in %s", c->unmatched, a->a_path, a->b_path);
    }
    if (c->all.count == 0) {
        moet_command_note("%s and %s have no point in common: bench both with one workload file", a->a_path, a->b_path);
        return MOET_EXIT_FAILED;
    }
    if (strcmp(c->a.device, c->b.device) != 0) {
        moet_command_note("the devices differ: %s and %s", c->a.device[0] != '\0' ? c->a.device : "unnamed",
                          c->b.device[0] != '\0' ? c->b.device : "unnamed");
    }
    print_sums(c);
    if (a->at_least > 0 && geomean(&c->all) < a->at_least) {
        moet_command_note("slower than asked: %.3f, at least %g was asked for", geomean(&c->all), a->at_least);
        return MOET_EXIT_SLOWER;
    }
    return MOET_EXIT_OK;
}

static const struct argp argp = {
    options,
    parse_option,
    "A.jsonl B.jsonl",
    MOET_COMMAND_DOC(
        "Joins the points of two benches on name, rows, tokens, skew, op, layout, and counts where both have "
        "them.",
        EXAMPLE,
        "ratio = time of B / time of A: above 1, A is faster. Where B has several peers, the table and "
        "the geometric mean that --at-least judges take the fastest at each point; the means against "
        "each peer follow. One file can be given twice, to compare its peers. Exit codes: 0, 4 below "
        "--at-least, 1 no point in common."),
    NULL,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    compare_arguments a = {0};
    comparison c = {.arguments = &a};
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    moet_status status = moet_bench_file_read(a.a_path, &c.a);
    if (status == MOET_OK) status = moet_bench_file_read(a.b_path, &c.b);
    if (status == MOET_OK) status = compare(&c);
    code = status == MOET_OK ? judge(&c) : moet_command_fail(status);
    moet_bench_file_release(&c.a);
    moet_bench_file_release(&c.b);
    moet_text_list_release(&a.against);
    return code;
}

const moet_command moet_command_compare = {"compare", SUMMARY, EXAMPLE, run, &argp};
