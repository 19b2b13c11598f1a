/* against_file.c: see against_file.h. */
#include "against_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* ---- what the arrays are ---- */

typedef enum array_type { TYPE_BF16, TYPE_INTEGER, TYPE_IDS, TYPE_FLOAT32 } array_type;

/* An array that an op takes. */
typedef struct array_rule {
    moet_dump_index index;
    const char *name;
    array_type type;
    int32_t dimensions;
    const char *shape;
    bool is_optional;
} array_rule;

static const array_rule gemm_rules[] = {
    {MOET_DUMP_X, "x", TYPE_BF16, 2, "[M, K]", false},
    {MOET_DUMP_W, "w", TYPE_BF16, 3, "[E, N, K] or [E, K, N]", false},
    {MOET_DUMP_COUNTS, "counts", TYPE_INTEGER, 1, "[E]", false},
    {MOET_DUMP_BIAS, "bias", TYPE_BF16, 2, "[E, N]", true},
    {MOET_DUMP_OUT, "out", TYPE_BF16, 2, "[M, N]", false},
};
static const array_rule path_rules[] = {
    {MOET_DUMP_X, "x", TYPE_BF16, 2, "[R, H]", false},
    {MOET_DUMP_IDS, "ids", TYPE_IDS, 2, "[R, k]", false},
    {MOET_DUMP_WEIGHTS, "weights", TYPE_FLOAT32, 2, "[R, k]", false}, /* optional with prob none */
    {MOET_DUMP_UP, "up", TYPE_BF16, 3, "[E, 2I, H] or [E, H, 2I]", false},
    {MOET_DUMP_UP_BIAS, "up_bias", TYPE_BF16, 2, "[E, 2I]", true},
    {MOET_DUMP_DOWN, "down", TYPE_BF16, 3, "[E, H, I] or [E, I, H]", false},
    {MOET_DUMP_DOWN_BIAS, "down_bias", TYPE_BF16, 2, "[E, H]", true},
    {MOET_DUMP_OUT, "out", TYPE_BF16, 2, "[R, H]", false},
};

typedef struct dump_reader {
    const moet_against_options *options;
    moet_npz npz;
    const array_rule *rules;
    int32_t rule_count;
    moet_dump dump;
} dump_reader;

static const char *name_of(const dump_reader *r, moet_dump_index index)
{
    for (int32_t i = 0; i < r->rule_count; i++) {
        if (r->rules[i].index == index) {
            return r->rules[i].name;
        }
    }
    return "?";
}

/* "FILE: array NAME is [3, 4], must be ..." */
__attribute__((format(printf, 3, 4))) static moet_status wrong_shape(const dump_reader *r, moet_dump_index index,
                                                                     const char *format, ...)
{
    char shape[MOET_ARRAY_TEXT_SIZE], wanted[256];
    va_list args;
    va_start(args, format);
    vsnprintf(wanted, sizeof wanted, format, args);
    va_end(args);
    moet_array_shape_text(&r->dump.arrays[index], shape);
    return moet_fail(MOET_INVALID, "%.400s: array %s is %s, must be %s", r->npz.path, name_of(r, index), shape, wanted);
}

static moet_status check_type(const dump_reader *r, const array_rule *rule)
{
    static const char *const wanted[] = {
        [TYPE_BF16] = "BF16 as 2-byte integers: tensor.view(torch.int16).numpy()",
        [TYPE_INTEGER] = "integers",
        [TYPE_IDS] = "int32 or int64",
        [TYPE_FLOAT32] = "float32",
    };
    const moet_array *a = &r->dump.arrays[rule->index];
    const bool is_integer = a->kind == 'i' || a->kind == 'u';
    bool fits = false;
    switch (rule->type) {
    case TYPE_BF16:
        fits = a->item_bytes == 2 && (is_integer || a->kind == 'V');
        break;
    case TYPE_INTEGER:
        fits = is_integer;
        break;
    case TYPE_IDS:
        fits = a->kind == 'i' && (a->item_bytes == 4 || a->item_bytes == 8);
        break;
    case TYPE_FLOAT32:
        fits = a->kind == 'f' && a->item_bytes == 4;
        break;
    }
    if (!fits) {
        char type[MOET_ARRAY_TEXT_SIZE];
        moet_array_type_text(a, type);
        return moet_fail(MOET_INVALID, "%.400s: array %s is of %s, must be of %s", r->npz.path, rule->name, type,
                         wanted[rule->type]);
    }
    return MOET_OK;
}

/* ---- reading ---- */

static moet_status read_array(dump_reader *r, const array_rule *rule)
{
    if (!moet_npz_has(&r->npz, rule->name)) {
        const bool unweighted = rule->index == MOET_DUMP_WEIGHTS && r->options->problem.prob == MOET_PROB_NONE;
        return rule->is_optional || unweighted ? MOET_OK
                                               : moet_fail(MOET_INVALID, "%.400s: no array %s, must be there as %s",
                                                           r->npz.path, rule->name, rule->shape);
    }
    moet_array *array = &r->dump.arrays[rule->index];
    MOET_TRY(moet_npz_read(&r->npz, rule->name, array));
    MOET_TRY(check_type(r, rule));
    if (array->dimensions != rule->dimensions) {
        return wrong_shape(r, rule->index, "%s", rule->shape);
    }
    for (int32_t i = 0; i < array->dimensions; i++) {
        if (array->shape[i] > MOET_MAX_DIM) {
            return wrong_shape(r, rule->index, "of at most %d in each dimension", MOET_MAX_DIM);
        }
    }
    return MOET_OK;
}

/* A misspelt name of an optional array would otherwise show as differences only. */
static void note_others(const dump_reader *r)
{
    for (int32_t i = 0; i < r->npz.count; i++) {
        bool is_known = false;
        for (int32_t j = 0; j < r->rule_count; j++) {
            is_known = is_known || strcmp(r->npz.names[i], r->rules[j].name) == 0;
        }
        if (!is_known) {
            moet_command_note("%s: array %s is not looked at", r->npz.path, r->npz.names[i]);
        }
    }
}

static moet_status choose_op(dump_reader *r, moet_op *op)
{
    const bool is_path = moet_npz_has(&r->npz, "ids");
    *op = r->options->problem.ops.count > 0 ? r->options->problem.ops.ops[0]
          : is_path                                 ? MOET_OP_FFN
                                                    : MOET_OP_UP;
    if ((*op == MOET_OP_FFN) != is_path) {
        return moet_fail(MOET_INVALID, "%.400s: %s array ids, must be op %s, not %s", r->npz.path,
                         is_path ? "has an" : "has no", is_path ? "ffn" : "up or down", moet_op_text(*op));
    }
    r->rules = is_path ? path_rules : gemm_rules;
    r->rule_count = is_path ? MOET_COUNT_OF(path_rules) : MOET_COUNT_OF(gemm_rules);
    return MOET_OK;
}

/* ---- shapes ---- */

/* The arrays of two dimensions that the others fix, where they are there. */
static moet_status check_matrix(const dump_reader *r, moet_dump_index index, int64_t rows, int64_t columns)
{
    const moet_array *a = &r->dump.arrays[index];
    if (a->data != NULL && (a->shape[0] != rows || a->shape[1] != columns)) {
        return wrong_shape(r, index, "[%lld, %lld]", (long long)rows, (long long)columns);
    }
    return MOET_OK;
}

/* Of the layouts that the shapes allow, the one that was asked for, else nk, which is said where kn would do as well.
 */
static moet_status choose_layout(const dump_reader *r, bool is_nk, bool is_kn, const char *weights, moet_layout *layout)
{
    *layout = is_nk ? MOET_LAYOUT_NK : MOET_LAYOUT_KN;
    if (r->options->problem.layouts.count > 0) {
        const moet_layout asked = r->options->problem.layouts.layouts[0];
        if (asked == MOET_LAYOUT_NK ? !is_nk : !is_kn) {
            return moet_fail(MOET_INVALID, "%.400s: %s of layout %s, must be %s as --layout says", r->npz.path, weights,
                             moet_layout_text(*layout), moet_layout_text(asked));
        }
        *layout = asked;
    } else if (is_nk && is_kn) {
        moet_command_note("%s: %s of layout nk or kn by the shapes: taken as nk, --layout kn is the other", r->npz.path,
                          weights);
    }
    return MOET_OK;
}

static moet_status shape_gemm(dump_reader *r, moet_op op)
{
    moet_dump *d = &r->dump;
    const moet_array *w = &d->arrays[MOET_DUMP_W], *x = &d->arrays[MOET_DUMP_X];
    const int64_t M = x->shape[0], K = x->shape[1], E = w->shape[0];
    moet_layout layout;
    if (w->shape[1] != K && w->shape[2] != K) {
        return wrong_shape(r, MOET_DUMP_W, "[E, N, %lld] or [E, %lld, N] as x has K = %lld", (long long)K, (long long)K,
                           (long long)K);
    }
    MOET_TRY(choose_layout(r, w->shape[2] == K, w->shape[1] == K, "array w is", &layout));
    const int64_t N = layout == MOET_LAYOUT_NK ? w->shape[1] : w->shape[2];
    if (d->arrays[MOET_DUMP_COUNTS].shape[0] != E) {
        return wrong_shape(r, MOET_DUMP_COUNTS, "[%lld] as w", (long long)E);
    }
    if (op == MOET_OP_UP && N % 2 != 0) {
        return wrong_shape(r, MOET_DUMP_W, "of an even N with op up, which has gate and up");
    }
    MOET_TRY(check_matrix(r, MOET_DUMP_BIAS, E, N));
    MOET_TRY(check_matrix(r, MOET_DUMP_OUT, M, N));
    const int64_t hidden = op == MOET_OP_UP ? K : N, inter = op == MOET_OP_UP ? N / 2 : K;
    moet_problem_init(&d->problem, op, (int32_t)E, (int32_t)hidden, (int32_t)inter);
    moet_problem_options_apply(&r->options->problem, &d->problem);
    d->problem.layout = layout;
    d->problem.bias = d->arrays[MOET_DUMP_BIAS].data != NULL;
    d->out_rows = M;
    return MOET_OK;
}

static moet_status shape_path(dump_reader *r)
{
    moet_dump *d = &r->dump;
    const moet_array *up = &d->arrays[MOET_DUMP_UP], *down = &d->arrays[MOET_DUMP_DOWN], *x = &d->arrays[MOET_DUMP_X];
    const long long R = x->shape[0], H = x->shape[1], E = up->shape[0], k = d->arrays[MOET_DUMP_IDS].shape[1];
    moet_layout layout;
    if (up->shape[1] != H && up->shape[2] != H) {
        return wrong_shape(r, MOET_DUMP_UP, "[E, 2I, %lld] or [E, %lld, 2I] as x has H = %lld", H, H, H);
    }
    const bool is_nk = up->shape[2] == H && down->shape[1] == H && up->shape[1] == 2 * down->shape[2];
    const bool is_kn = up->shape[1] == H && down->shape[2] == H && up->shape[2] == 2 * down->shape[1];
    if (down->shape[0] != E || (!is_nk && !is_kn)) {
        char shape[MOET_ARRAY_TEXT_SIZE];
        moet_array_shape_text(up, shape);
        return wrong_shape(r, MOET_DUMP_DOWN,
                           "[E, %lld, I] with up [E, 2I, %lld], or [E, I, %lld] with up [E, %lld, 2I]; up is %s", H, H,
                           H, H, shape);
    }
    MOET_TRY(choose_layout(r, is_nk, is_kn, "arrays up and down are", &layout));
    const int64_t inter = layout == MOET_LAYOUT_NK ? down->shape[2] : down->shape[1];
    if (k < 1 || k > MOET_MAX_CHOICES) {
        return wrong_shape(r, MOET_DUMP_IDS, "[%lld, 1 to %d]", R, MOET_MAX_CHOICES);
    }
    MOET_TRY(check_matrix(r, MOET_DUMP_IDS, R, k));
    MOET_TRY(check_matrix(r, MOET_DUMP_WEIGHTS, R, k));
    MOET_TRY(check_matrix(r, MOET_DUMP_UP_BIAS, E, 2 * inter));
    MOET_TRY(check_matrix(r, MOET_DUMP_DOWN_BIAS, E, H));
    MOET_TRY(check_matrix(r, MOET_DUMP_OUT, R, H));
    moet_problem *p = &d->problem;
    moet_problem_init(p, MOET_OP_FFN, (int32_t)E, (int32_t)H, (int32_t)inter);
    moet_problem_options_apply(&r->options->problem, p);
    p->layout = layout;
    p->bias = d->arrays[MOET_DUMP_UP_BIAS].data != NULL;
    p->down_bias = d->arrays[MOET_DUMP_DOWN_BIAS].data != NULL;
    d->out_rows = R;
    d->choices = (int32_t)k;
    return MOET_OK;
}

/* ---- rows of each expert ---- */

static moet_status count_gemm(dump_reader *r)
{
    moet_dump *d = &r->dump;
    const moet_array *counts = &d->arrays[MOET_DUMP_COUNTS];
    for (int32_t e = 0; e < d->problem.experts; e++) {
        const int64_t count = moet_array_integer(counts, e);
        if (count < 0 || count > d->out_rows) {
            return moet_fail(MOET_INVALID, "%.400s: array counts has %lld at %d, must be 0 to the %lld rows of x",
                             r->npz.path, (long long)count, e, (long long)d->out_rows);
        }
        d->counts[e] = (int32_t)count;
        d->rows += count;
    }
    if (d->rows != d->out_rows) {
        return moet_fail(MOET_INVALID, "%.400s: array counts sums to %lld, must be the %lld rows of x", r->npz.path,
                         (long long)d->rows, (long long)d->out_rows);
    }
    return MOET_OK;
}

static moet_status count_path(dump_reader *r)
{
    moet_dump *d = &r->dump;
    const moet_array *ids = &d->arrays[MOET_DUMP_IDS];
    moet_ffn_args args = {.ids = ids->data,
                          .ids_int64 = ids->item_bytes == 8,
                          .weights = d->arrays[MOET_DUMP_WEIGHTS].data,
                          .tokens = d->out_rows};
    moet_status status = moet_ffn_permutation_create(&d->problem, d->choices, &args, &d->permutation);
    if (status != MOET_OK) {
        return moet_fail(status, "%.400s: array ids: %s", r->npz.path, moet_last_error());
    }
    memcpy(d->counts, d->permutation->counts, (size_t)d->problem.experts * sizeof *d->counts);
    d->rows = d->permutation->rows;
    return MOET_OK;
}

static moet_status read_all(dump_reader *r)
{
    moet_dump *d = &r->dump;
    moet_op op;
    MOET_TRY(moet_npz_open(r->options->file, &r->npz));
    MOET_TRY(choose_op(r, &op));
    for (int32_t i = 0; i < r->rule_count; i++) {
        MOET_TRY(read_array(r, &r->rules[i]));
    }
    note_others(r);
    MOET_TRY(op == MOET_OP_FFN ? shape_path(r) : shape_gemm(r, op));
    if (moet_problem_validate(&d->problem) != MOET_OK) {
        return moet_fail(MOET_INVALID, "%.400s: by its shapes: %s", r->npz.path, moet_last_error());
    }
    d->counts = calloc((size_t)d->problem.experts, sizeof *d->counts);
    if (d->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%.400s: no memory for counts", r->npz.path);
    }
    return op == MOET_OP_FFN ? count_path(r) : count_gemm(r);
}

moet_status moet_dump_read(const moet_against_options *options, moet_dump *dump)
{
    dump_reader r = {.options = options};
    moet_status status = read_all(&r);
    moet_npz_close(&r.npz);
    if (status != MOET_OK) {
        moet_dump_release(&r.dump);
        return status;
    }
    *dump = r.dump;
    return MOET_OK;
}

void moet_dump_release(moet_dump *dump)
{
    for (int32_t i = 0; i < MOET_DUMP_ARRAYS; i++) {
        moet_array_release(&dump->arrays[i]);
    }
    moet_ffn_permutation_destroy(dump->permutation);
    free(dump->counts);
    *dump = (moet_dump){0};
}
