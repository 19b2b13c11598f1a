/* moe-tune diff: what changed from one table to another, for review. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "emit.h"
#include "label.h"
#include "output.h"
#include "store.h"

/* ---- entries of a table ---- */

/* One winner with its place; everything points into the parsed table. */
typedef struct entry {
    const char *device, *problem, *workload, *skew;
    int64_t rows, max;
    const cJSON *counts;
    const char *kind;
    char layer[96]; /* of the expert-parallel layer: what a point is of, beside the problem; else "" */
    const char *config, *validator;
    const cJSON *winner; /* which has its kernels */
    int64_t version, time_ns, noise_ns;
} entry;

typedef struct entries {
    int32_t count, capacity;
    entry *items;
} entries;

static const cJSON *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(member(object, name));
    return text ? text : "";
}

static int64_t integer_of(const cJSON *object, const char *name)
{
    const cJSON *item = member(object, name);
    /* Beyond this a double no longer converts; a table's integers are below 2^53. */
    return cJSON_IsNumber(item) && item->valuedouble > -9e15 && item->valuedouble < 9e15 ? (int64_t)item->valuedouble
                                                                                         : 0;
}

static moet_status add_entry(entries *list, const entry *e)
{
    if (list->count == list->capacity) {
        int32_t capacity = list->capacity ? 2 * list->capacity : 64;
        entry *grown = realloc(list->items, (size_t)capacity * sizeof *grown);
        if (!grown) return moet_fail(MOET_NO_MEMORY, "diff: out of memory");
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->count++] = *e;
    return MOET_OK;
}

static moet_status add_point(entries *list, const cJSON *device, const cJSON *problem, const cJSON *point)
{
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++) {
        const cJSON *winner = member(point, moet_store_kind_name(kind));
        if (!cJSON_IsObject(winner)) continue;
        entry e = {
            .device = text_of(device, "key"),
            .problem = text_of(problem, "key"),
            .workload = text_of(point, "workload"),
            .skew = text_of(point, "skew"),
            .rows = integer_of(point, "rows"),
            .max = integer_of(point, "max"),
            .counts = member(point, "counts"),
            .kind = moet_store_kind_name(kind),
            .config = text_of(winner, "config"),
            .validator = text_of(winner, "validator"),
            .winner = winner,
            .version = integer_of(winner, "version"),
            .time_ns = integer_of(winner, "time_ns"),
            .noise_ns = integer_of(winner, "noise_ns"),
        };
        MOET_TRY(add_entry(list, &e));
    }
    return MOET_OK;
}

/* A point of the expert-parallel layer: rows are tokens, the config is how it is run. */
static moet_status add_layer_point(entries *list, const cJSON *device, const cJSON *layer, const cJSON *point)
{
    entry e = {
        .device = text_of(device, "key"),
        .problem = text_of(layer, "problem"),
        .workload = text_of(point, "workload"),
        .skew = text_of(point, "skew"),
        .rows = integer_of(point, "tokens"),
        .max = integer_of(point, "busiest"),
        .kind = "ep",
        .config = text_of(point, "choice"),
        .validator = "",
        .winner = point,
        .time_ns = integer_of(point, "time_ns"),
        .noise_ns = integer_of(point, "noise_ns"),
    };
    snprintf(e.layer, sizeof e.layer, "ranks=%lld hosts=%lld choices=%lld returns=%.16s",
             (long long)integer_of(layer, "ranks"), (long long)integer_of(layer, "hosts"),
             (long long)integer_of(layer, "choices"), text_of(layer, "returns"));
    return add_entry(list, &e);
}

static int compare_integers(int64_t a, int64_t b) { return (a > b) - (a < b); }

/* By place in the table: zero for what is the same point and kind. */
static int compare_entries(const void *left, const void *right)
{
    const entry *a = left, *b = right;
    int order = strcmp(a->device, b->device);
    if (!order) order = strcmp(a->problem, b->problem);
    if (!order) order = strcmp(a->layer, b->layer);
    if (!order && a->layer[0]) order = strcmp(a->skew, b->skew);
    if (!order) order = compare_integers(a->rows, b->rows);
    if (!order) order = compare_integers(a->max, b->max);
    const cJSON *x = a->counts ? a->counts->child : NULL, *y = b->counts ? b->counts->child : NULL;
    for (; !order && x && y; x = x->next, y = y->next)
        order = (x->valuedouble > y->valuedouble) - (x->valuedouble < y->valuedouble);
    if (!order) order = (x != NULL) - (y != NULL);
    return order ? order : strcmp(a->kind, b->kind);
}

static moet_status collect(const cJSON *table, entries *list)
{
    const cJSON *device, *problem, *layer, *point;
    cJSON_ArrayForEach(device, member(table, "devices"))
    {
        cJSON_ArrayForEach(layer, member(device, "ep"))
        {
            cJSON_ArrayForEach(point, member(layer, "points")) MOET_TRY(add_layer_point(list, device, layer, point));
        }
        cJSON_ArrayForEach(problem, member(device, "problems"))
        {
            cJSON_ArrayForEach(point, member(problem, "points")) MOET_TRY(add_point(list, device, problem, point));
        }
    }
    if (list->count) qsort(list->items, (size_t)list->count, sizeof *list->items, compare_entries);
    return MOET_OK;
}

/* ---- comparing ---- */

typedef struct diff_options {
    const char *old_dir, *new_dir;
    bool all;
    moet_output_format format;
} diff_options;

static const moet_output_column columns[] = {
    {"change", MOET_OUTPUT_TEXT, 0},     {"device", MOET_OUTPUT_TEXT, 0},      {"problem", MOET_OUTPUT_TEXT, 0},
    {"workload", MOET_OUTPUT_TEXT, 0},   {"rows", MOET_OUTPUT_INTEGER, 0},     {"skew", MOET_OUTPUT_TEXT, 0},
    {"kind", MOET_OUTPUT_TEXT, 0},       {"old_time_us", MOET_OUTPUT_REAL, 3}, {"new_time_us", MOET_OUTPUT_REAL, 3},
    {"gain_pct", MOET_OUTPUT_REAL, 1},   {"noise_pct", MOET_OUTPUT_REAL, 2},   {"beyond_noise", MOET_OUTPUT_BOOL, 0},
    {"old_config", MOET_OUTPUT_TEXT, 0}, {"new_config", MOET_OUTPUT_TEXT, 0},
};

typedef enum change_kind { CHANGE_SAME, CHANGE_CHANGED, CHANGE_ADDED, CHANGE_REMOVED, CHANGE_COUNT } change_kind;
static const char *const change_names[CHANGE_COUNT] = {"same", "changed", "added", "removed"};

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* The rule of ties: more apart than 1 % of the faster and both noises. */
static bool is_beyond_noise(const entry *a, const entry *b)
{
    int64_t fastest = a->time_ns < b->time_ns ? a->time_ns : b->time_ns;
    int64_t apart = llabs(a->time_ns - b->time_ns);
    return 100 * apart > max64(fastest, 100 * max64(a->noise_ns, b->noise_ns));
}

/* The hashes of a winner's kernels; their number. Version 1 of the format has one at most, as a text. */
static int32_t read_hashes(const cJSON *winner, const char *hashes[MOET_MAX_CUBINS])
{
    const cJSON *cubin;
    int32_t n = 0;
    const char *single = cJSON_GetStringValue(member(winner, "cubin"));
    if (single) hashes[n++] = single;
    cJSON_ArrayForEach(cubin, member(winner, "cubins"))
    {
        if (n < MOET_MAX_CUBINS) hashes[n++] = text_of(cubin, "sha256");
    }
    return n;
}

static bool have_same_cubins(const cJSON *a, const cJSON *b)
{
    const char *x[MOET_MAX_CUBINS], *y[MOET_MAX_CUBINS];
    int32_t n = read_hashes(a, x);
    if (read_hashes(b, y) != n) return false;
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(x[i], y[i]) != 0) return false;
    }
    return true;
}

/* Either may be NULL, not both. */
static change_kind classify(const entry *old, const entry *new)
{
    if (!old) return CHANGE_ADDED;
    if (!new) return CHANGE_REMOVED;
    bool same = strcmp(old->config, new->config) == 0 && strcmp(old->validator, new->validator) == 0 &&
                have_same_cubins(old->winner, new->winner) && old->version == new->version;
    return same && !is_beyond_noise(old, new) ? CHANGE_SAME : CHANGE_CHANGED;
}

static void put_text_label(moet_output *out, bool brief, void (*label)(const char *key, char *text), const char *key)
{
    char text[MOET_DEVICE_KEY_SIZE];
    _Static_assert(MOET_DEVICE_KEY_SIZE >= MOET_KEY_SIZE, "either label fits");
    label(key, text);
    moet_output_text(out, brief ? text : key);
}

static void put_time(moet_output *out, const entry *e)
{
    if (e)
        moet_output_real(out, (double)e->time_ns / 1e3);
    else
        moet_output_none(out);
}

static void put_change(moet_output *out, bool brief, change_kind change, const entry *old, const entry *new)
{
    const entry *either = new ? new : old;
    char kind[128];
    moet_output_text(out, change_names[change]);
    put_text_label(out, brief, moet_label_device, either->device);
    put_text_label(out, brief, moet_label_problem, either->problem);
    moet_output_text(out, either->workload);
    moet_output_integer(out, either->rows);
    moet_output_text(out, either->skew);
    snprintf(kind, sizeof kind, "%s%s%s", either->kind, either->layer[0] ? " " : "", either->layer);
    moet_output_text(out, kind);
    put_time(out, old);
    put_time(out, new);
    if (old && new && old->time_ns > 0 && new->time_ns > 0) {
        moet_output_real(out, 100.0 * ((double)old->time_ns / (double)new->time_ns - 1));
        moet_output_real(out, 100.0 * (double)max64(old->noise_ns, new->noise_ns) / (double)new->time_ns);
        moet_output_bool(out, is_beyond_noise(old, new));
    } else {
        for (int i = 0; i < 3; i++) moet_output_none(out);
    }
    moet_output_text(out, old ? old->config : NULL);
    moet_output_text(out, new ? new->config : NULL);
}

/* Walks both sorted lists side by side. */
static void put_changes(const diff_options *options, const entries *old, const entries *new, moet_output *out,
                        int32_t counts[CHANGE_COUNT])
{
    int32_t i = 0, j = 0;
    while (i < old->count || j < new->count) {
        const entry *a = i < old->count ? &old->items[i] : NULL, *b = j < new->count ? &new->items[j] : NULL;
        int order = !a ? 1 : !b ? -1 : compare_entries(a, b);
        if (order < 0) b = NULL;
        if (order > 0) a = NULL;
        change_kind change = classify(a, b);
        counts[change]++;
        if (change != CHANGE_SAME || options->all) put_change(out, options->format == MOET_FORMAT_TEXT, change, a, b);
        i += a != NULL;
        j += b != NULL;
    }
}

static moet_status diff(const diff_options *options)
{
    cJSON *old_table = NULL, *new_table = NULL;
    entries old = {0}, new = {0};
    moet_output *out = NULL;
    int32_t counts[CHANGE_COUNT] = {0};
    moet_status status = moet_emit_read(options->old_dir, &old_table);
    if (status == MOET_OK) status = moet_emit_read(options->new_dir, &new_table);
    if (status == MOET_OK) status = collect(old_table, &old);
    if (status == MOET_OK) status = collect(new_table, &new);
    if (status == MOET_OK) status = moet_output_create(stdout, options->format, columns, MOET_COUNT_OF(columns), &out);
    if (status == MOET_OK) {
        put_changes(options, &old, &new, out, counts);
        status = moet_output_finish(out);
    }
    if (status == MOET_OK)
        moet_command_note("%d changed, %d added, %d removed, %d the same within noise", counts[CHANGE_CHANGED],
                          counts[CHANGE_ADDED], counts[CHANGE_REMOVED], counts[CHANGE_SAME]);
    free(old.items);
    free(new.items);
    cJSON_Delete(old_table);
    cJSON_Delete(new_table);
    return status;
}

/* ---- command ---- */

enum { OPTION_ALL = 256, OPTION_FORMAT };

static const struct argp_option options_table[] = {
    {"all", OPTION_ALL, NULL, 0, "also what is the same within noise", 0},
    {"format", OPTION_FORMAT, "FORMAT", 0, "text, csv or json (default text)", 0},
    {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    diff_options *options = state->input;
    switch (key) {
    case OPTION_ALL:
        options->all = true;
        return 0;
    case OPTION_FORMAT:
        moet_command_check(state, moet_output_format_parse(argument, &options->format));
        return 0;
    case ARGP_KEY_ARG:
        if (!options->old_dir)
            options->old_dir = argument;
        else if (!options->new_dir)
            options->new_dir = argument;
        else
            argp_error(state, "two table folders are compared, '%s' is one too many", argument);
        return 0;
    case ARGP_KEY_END:
        if (!options->new_dir) argp_error(state, "name two table folders, the old and the new");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options_table,
    .parser = parse_option,
    .args_doc = "OLD NEW",
    .doc =
        MOET_COMMAND_DOC("Shows what changed from one table folder to another.", "moe-tune diff table.before table",
                         "An entry has changed if its config, its version or its kernel differs, or its time by more "
                         "than 1 % and both noises. gain_pct is how much longer the old one takes."),
};

static int run_diff(int argc, char **argv)
{
    diff_options options = {0};
    int code = moet_command_parse(&argp, argc, argv, &options);
    return code != MOET_EXIT_OK ? code : moet_command_fail(diff(&options));
}

const moet_command moet_command_diff = {
    .name = "diff",
    .summary = "show what changed between two tables",
    .example = "moe-tune diff table.before table",
    .run = run_diff,
    .argp = &argp,
};
