/* against.c: see against.h. */
#include "against.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/device.h"
#include "against_file.h"
#include "command.h"
#include "planned.h"

/* ---- running ---- */

#define POISON 0xff /* BF16 NaN: an element that was not written differs */

typedef struct against_state {
    const moet_against_options *options;
    moet_dump dump;
    moet_device *device;
    moet_handle *handle;
    moet_plan *plan;
    moet_choice choice;
    void *placed[MOET_DUMP_ARRAYS]; /* on the device; OUT is our result there */
    uint16_t *ours;                 /* [out_rows, N] */
} against_state;

/* Inputs to the device, and poison to where the result will be. */
static moet_status place_arrays(against_state *s)
{
    const moet_backend *backend = s->device->backend;
    for (int32_t i = 0; i < MOET_DUMP_ARRAYS; i++) {
        const moet_array *array = &s->dump.arrays[i];
        if (array->data == NULL || i == MOET_DUMP_COUNTS) {
            continue;
        }
        const size_t size_bytes = array->size_bytes;
        MOET_TRY(backend->alloc(s->device, size_bytes > 0 ? size_bytes : 1, &s->placed[i]));
        if (size_bytes > 0) {
            MOET_TRY(i == MOET_DUMP_OUT ? backend->fill(s->device, s->placed[i], POISON, size_bytes)
                                        : backend->upload(s->device, s->placed[i], array->data, size_bytes));
        }
    }
    return MOET_OK;
}

static moet_status launch(against_state *s)
{
    const moet_dump *d = &s->dump;
    void *const *at = s->placed;
    if (d->problem.op == MOET_OP_FFN) {
        const moet_ffn_args args = {.x = at[MOET_DUMP_X],
                                    .ids = at[MOET_DUMP_IDS],
                                    .ids_int64 = d->arrays[MOET_DUMP_IDS].item_bytes == 8,
                                    .weights = at[MOET_DUMP_WEIGHTS],
                                    .up = at[MOET_DUMP_UP],
                                    .up_bias = at[MOET_DUMP_UP_BIAS],
                                    .down = at[MOET_DUMP_DOWN],
                                    .down_bias = at[MOET_DUMP_DOWN_BIAS],
                                    .out = at[MOET_DUMP_OUT],
                                    .tokens = d->out_rows,
                                    .counts = d->counts};
        return moet_ffn(s->plan, &args);
    }
    const moet_launch_args args = {.x = at[MOET_DUMP_X],
                                   .w = at[MOET_DUMP_W],
                                   .bias = at[MOET_DUMP_BIAS],
                                   .out = at[MOET_DUMP_OUT],
                                   .counts = d->counts};
    return moet_launch(s->plan, &args);
}

/* As production does: a plan for the rows at hand, one launch with counts on the host. */
static moet_status compute(against_state *s)
{
    const moet_dump *d = &s->dump;
    const size_t size_bytes = d->arrays[MOET_DUMP_OUT].size_bytes;
    moet_plan_options options = {.max_rows = d->rows > 0 ? d->rows : 1};
    if (d->problem.op == MOET_OP_FFN) {
        options.max_tokens = d->out_rows > 0 ? d->out_rows : 1;
        options.choices = d->choices;
    }
    MOET_TRY(moet_device_open(s->options->device, &s->device));
    MOET_TRY(moet_planned_open(s->options->table, s->options->device, &s->handle));
    moet_command_note_refusals(s->options->table, s->handle);
    MOET_TRY(moet_plan_create(s->handle, &d->problem, &options, &s->plan));
    MOET_TRY(moet_plan_query(s->plan, d->counts, &s->choice));
    MOET_TRY(place_arrays(s));
    MOET_TRY(launch(s));
    MOET_TRY(s->device->backend->stream_synchronize(s->device, NULL));
    s->ours = malloc(size_bytes + 1);
    if (s->ours == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for %zu bytes of results", size_bytes);
    }
    return size_bytes > 0 ? s->device->backend->download(s->device, s->ours, s->placed[MOET_DUMP_OUT], size_bytes)
                          : MOET_OK;
}

static void release(against_state *s)
{
    for (int32_t i = 0; i < MOET_DUMP_ARRAYS && s->device != NULL; i++) {
        s->device->backend->free(s->device, s->placed[i]);
    }
    free(s->ours);
    moet_plan_destroy(s->plan);
    moet_close(s->handle);
    moet_device_close(s->device);
    moet_dump_release(&s->dump);
}

/* ---- comparing ---- */

typedef struct tally {
    int64_t rows, elements;
    int64_t differing;    /* in any bit */
    int64_t nan_mismatch; /* of these, those of which one alone is NaN */
    int32_t max_ulp;      /* largest distance in steps of BF16; of numbers, infinities among them */
} tally;

static bool is_nan(uint16_t bits) { return (bits & 0x7fff) > 0x7f80; }

/* BF16 numbers in order, neighbours one apart, -0 and +0 equal. */
static int32_t place_in_order(uint16_t bits) { return (bits & 0x8000) != 0 ? -(bits & 0x7fff) : bits; }

static tally compare_row(const uint16_t *ours, const uint16_t *theirs, int64_t count)
{
    tally t = {.rows = 1, .elements = count};
    for (int64_t i = 0; i < count; i++) {
        if (ours[i] == theirs[i]) {
            continue;
        }
        t.differing++;
        if (is_nan(ours[i]) || is_nan(theirs[i])) {
            t.nan_mismatch += is_nan(ours[i]) != is_nan(theirs[i]);
            continue;
        }
        const int32_t ulp = abs(place_in_order(ours[i]) - place_in_order(theirs[i]));
        t.max_ulp = ulp > t.max_ulp ? ulp : t.max_ulp;
    }
    return t;
}

static void add_tally(tally *sum, const tally *t)
{
    sum->rows += t->rows;
    sum->elements += t->elements;
    sum->differing += t->differing;
    sum->nan_mismatch += t->nan_mismatch;
    sum->max_ulp = t->max_ulp > sum->max_ulp ? t->max_ulp : sum->max_ulp;
}

/* Of each expert, then of the tokens that have none: experts + 1 of them; and of all rows of out. */
static void compare(const against_state *s, tally *experts, tally *total)
{
    const moet_dump *d = &s->dump;
    const int32_t E = d->problem.experts;
    const int64_t N = moet_problem_n(&d->problem);
    const uint16_t *theirs = d->arrays[MOET_DUMP_OUT].data;
    int64_t end = d->counts[0]; /* of the rows of `expert` */
    for (int64_t row = 0, expert = 0; row < d->out_rows; row++) {
        const tally t = compare_row(s->ours + row * N, theirs + row * N, N);
        add_tally(total, &t);
        if (d->permutation == NULL) {
            while (row >= end) {
                end += d->counts[++expert];
            }
            add_tally(&experts[expert], &t);
            continue;
        }
        bool is_local = false;
        for (int32_t e = 0; e < E; e++) {
            if (d->permutation->rowmap[row * E + e] >= 0) {
                add_tally(&experts[e], &t);
                is_local = true;
            }
        }
        if (!is_local) {
            add_tally(&experts[E], &t);
        }
    }
}

/* ---- telling ---- */

static const moet_output_column columns[] = {
    {"expert", MOET_OUTPUT_INTEGER, 0},       {"rows", MOET_OUTPUT_INTEGER, 0},
    {"elements", MOET_OUTPUT_INTEGER, 0},     {"differing", MOET_OUTPUT_INTEGER, 0},
    {"differing_pct", MOET_OUTPUT_REAL, 4},   {"max_ulp", MOET_OUTPUT_INTEGER, 0},
    {"nan_mismatch", MOET_OUTPUT_INTEGER, 0},
};

static double percent(const tally *t) { return t->elements > 0 ? 100 * (double)t->differing / (double)t->elements : 0; }

/* The tokens without an expert have no value for it, and a row where there are any. */
static moet_status print_experts(const against_state *s, const tally *experts)
{
    moet_output *out = NULL;
    MOET_TRY(moet_output_create(stdout, s->options->format, columns, MOET_COUNT_OF(columns), &out));
    for (int32_t e = 0; e <= s->dump.problem.experts; e++) {
        const tally *t = &experts[e];
        if (e < s->dump.problem.experts) {
            moet_output_integer(out, e);
        } else if (t->rows > 0) {
            moet_output_none(out);
        } else {
            break;
        }
        moet_output_integer(out, t->rows);
        moet_output_integer(out, t->elements);
        moet_output_integer(out, t->differing);
        moet_output_real(out, percent(t));
        moet_output_integer(out, t->max_ulp);
        moet_output_integer(out, t->nan_mismatch);
    }
    return moet_output_finish(out);
}

/* By the rows of an expert: another kernel, or another tile, often begins at some number of rows. */
static void note_row_counts(const against_state *s, const tally *experts)
{
    static const struct {
        const char *name;
        int64_t least, most;
    } ranges[] = {{"1", 1, 1},       {"2-4", 2, 4},       {"5-16", 5, 16},
                  {"17-64", 17, 64}, {"65-256", 65, 256}, {"257 and more", 257, INT64_MAX}};
    for (int32_t i = 0; i < MOET_COUNT_OF(ranges); i++) {
        tally sum = {0};
        int32_t count = 0;
        for (int32_t e = 0; e < s->dump.problem.experts; e++) {
            if (experts[e].rows >= ranges[i].least && experts[e].rows <= ranges[i].most) {
                add_tally(&sum, &experts[e]);
                count++;
            }
        }
        if (count > 0) {
            fprintf(stderr, "rows %-12s %4d experts  %lld of %lld elements differ (%.4f %%)  max_ulp %d\n",
                    ranges[i].name, count, (long long)sum.differing, (long long)sum.elements, percent(&sum),
                    sum.max_ulp);
        }
    }
}

static moet_status compare_and_print(const against_state *s, int64_t *differing)
{
    tally total = {0};
    tally *experts = calloc((size_t)s->dump.problem.experts + 1, sizeof *experts);
    if (experts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a table of experts");
    }
    compare(s, experts, &total);
    moet_status status = print_experts(s, experts);
    if (status == MOET_OK) {
        char key[MOET_KEY_SIZE];
        moet_problem_format(&s->dump.problem, key);
        note_row_counts(s, experts);
        moet_command_note("%s on %s: %lld of %lld elements differ; config %s, hit %s; %s", s->options->file,
                          s->device->info.name, (long long)total.differing, (long long)total.elements, s->choice.config,
                          moet_hit_name(s->choice.hit), key);
        *differing = total.differing;
    }
    free(experts);
    return status;
}

moet_status moet_against_run(const moet_against_options *options, int64_t *differing)
{
    against_state s = {.options = options};
    moet_status status = moet_dump_read(options, &s.dump);
    if (status == MOET_OK) status = compute(&s);
    if (status == MOET_OK) status = compare_and_print(&s, differing);
    release(&s);
    return status;
}
