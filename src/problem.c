#include <errno.h>
#include <float.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "family.h"

/* ---- the fields of the key text: one row each ---- */

#define MOET_X(name, text) text,
static const char *const op_names[] = {MOET_OP_TABLE(MOET_X) NULL};
static const char *const dtype_names[] = {MOET_DTYPE_TABLE(MOET_X) NULL};
static const char *const scales_names[] = {MOET_SCALES_TABLE(MOET_X) NULL};
static const char *const layout_names[] = {MOET_LAYOUT_TABLE(MOET_X) NULL};
static const char *const activation_names[] = {MOET_ACTIVATION_TABLE(MOET_X) NULL};
static const char *const prob_names[] = {MOET_PROB_TABLE(MOET_X) NULL};
static const char *const combine_names[] = {MOET_COMBINE_TABLE(MOET_X) NULL};
static const char *const numerics_names[] = {MOET_NUMERICS_TABLE(MOET_X) NULL};
#undef MOET_X
static const char *const bool_names[] = {"0", "1", NULL};

typedef enum field_type { FIELD_NAME, FIELD_NUMBER, FIELD_BOOL, FIELD_REAL } field_type;
typedef struct field {
    const char *key;
    field_type type;
    size_t offset;
    const char *const *names; /* FIELD_NAME, FIELD_BOOL */
} field;

/* The enums are stored as int-sized values; the text lists the fields in this order. */
_Static_assert(sizeof(moet_op) == sizeof(int32_t), "enum fields are read and written as int32_t");
static const field fields[] = {
    {"op", FIELD_NAME, offsetof(moet_problem, op), op_names},
    {"experts", FIELD_NUMBER, offsetof(moet_problem, experts), NULL},
    {"hidden", FIELD_NUMBER, offsetof(moet_problem, hidden), NULL},
    {"inter", FIELD_NUMBER, offsetof(moet_problem, inter), NULL},
    {"x", FIELD_NAME, offsetof(moet_problem, x_dtype), dtype_names},
    {"w", FIELD_NAME, offsetof(moet_problem, w_dtype), dtype_names},
    {"out", FIELD_NAME, offsetof(moet_problem, out_dtype), dtype_names},
    {"scales", FIELD_NAME, offsetof(moet_problem, scales), scales_names},
    {"layout", FIELD_NAME, offsetof(moet_problem, layout), layout_names},
    {"activation", FIELD_NAME, offsetof(moet_problem, activation), activation_names},
    {"bias", FIELD_BOOL, offsetof(moet_problem, bias), bool_names},
    {"prob", FIELD_NAME, offsetof(moet_problem, prob), prob_names},
    {"numerics", FIELD_NAME, offsetof(moet_problem, numerics), numerics_names},
    /* FFN only: the texts of the other ops end here, as stores and tables hold them. */
    {"down_bias", FIELD_BOOL, offsetof(moet_problem, down_bias), bool_names},
    {"combine", FIELD_NAME, offsetof(moet_problem, combine), combine_names},
    {"clamp", FIELD_REAL, offsetof(moet_problem, clamp), NULL},
};
enum { FFN_FIELDS = 3, REAL_SIZE = 32 };

static int32_t field_count(moet_op op) { return MOET_COUNT_OF(fields) - (op == MOET_OP_FFN ? 0 : FFN_FIELDS); }

static int32_t field_get(const field *f, const moet_problem *problem)
{
    if (f->type == FIELD_BOOL) return *(const bool *)((const char *)problem + f->offset);
    int32_t value;
    memcpy(&value, (const char *)problem + f->offset, sizeof value);
    return value;
}

static void field_set(const field *f, moet_problem *problem, int32_t value)
{
    if (f->type == FIELD_BOOL)
        *(bool *)((char *)problem + f->offset) = value != 0;
    else
        memcpy((char *)problem + f->offset, &value, sizeof value);
}

static int32_t name_index(const char *const *names, const char *text)
{
    for (int32_t i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) return i;
    }
    return -1;
}

/* "nk, kn" */
static void name_list(const char *const *names, char *text, size_t size)
{
    size_t used = 0;
    for (int32_t i = 0; names[i] && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", names[i]);
}

static int32_t name_count(const char *const *names)
{
    int32_t n = 0;
    while (names[n]) n++;
    return n;
}

/* The shortest text that reads back as the same number; the decimal point is a point in every locale. */
static void real_format(double value, char text[REAL_SIZE])
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, REAL_SIZE, "%.*g", digits, value + 0.0); /* -0 is 0 */
        if (strtod(text, NULL) == value) break;
    }
    char *point = strchr(text, localeconv()->decimal_point[0]);
    if (point) *point = '.';
}

static bool real_parse(const char *text, double *value)
{
    char local[REAL_SIZE], again[REAL_SIZE], *end;
    snprintf(local, sizeof local, "%s", text);
    char *point = strchr(local, '.');
    if (point) *point = localeconv()->decimal_point[0];
    *value = strtod(local, &end);
    /* The canonical text only, so that one problem has one text. */
    real_format(*value, again);
    return text[0] >= '0' && text[0] <= '9' && !*end && strcmp(text, again) == 0;
}

/* ---- public ---- */

void moet_problem_init(moet_problem *problem, moet_op op, int32_t experts, int32_t hidden, int32_t inter)
{
    const bool is_path = op == MOET_OP_FFN;
    *problem = (moet_problem){.op = op,
                              .experts = experts,
                              .hidden = hidden,
                              .inter = inter,
                              .activation = is_path ? MOET_ACTIVATION_SWIGLU : MOET_ACTIVATION_NONE,
                              .prob = is_path ? MOET_PROB_COMBINE : MOET_PROB_NONE};
}

int32_t moet_problem_n(const moet_problem *problem)
{
    return problem->op == MOET_OP_UP ? 2 * problem->inter : problem->hidden;
}

int32_t moet_problem_k(const moet_problem *problem)
{
    return problem->op == MOET_OP_DOWN ? problem->inter : problem->hidden;
}

moet_problem moet_problem_gemm(const moet_problem *path, moet_op op)
{
    moet_problem gemm = *path;
    gemm.op = op;
    gemm.bias = op == MOET_OP_UP ? path->bias : path->down_bias;
    gemm.activation = MOET_ACTIVATION_NONE;
    gemm.prob = MOET_PROB_NONE;
    gemm.down_bias = false;
    gemm.combine = MOET_COMBINE_EXACT;
    gemm.clamp = 0;
    return gemm;
}

/* The fields that say what the path does between and after its GEMMs. */
static moet_status validate_path(const moet_problem *p)
{
    const char *op = op_names[p->op];
    if (p->op != MOET_OP_FFN) {
        if (p->activation != MOET_ACTIVATION_NONE || p->prob != MOET_PROB_NONE || p->combine != MOET_COMBINE_EXACT)
            return moet_fail(MOET_INVALID, "problem: op %s has activation none, prob none and combine exact", op);
        if (p->down_bias || p->clamp != 0)
            return moet_fail(MOET_INVALID, "problem: op %s has neither down_bias nor clamp", op);
        return MOET_OK;
    }
    if (p->activation == MOET_ACTIVATION_NONE) return moet_fail(MOET_INVALID, "problem: op %s needs an activation", op);
    if (p->activation == MOET_ACTIVATION_SWIGLU_CLAMP) {
        if (!(p->clamp >= (double)FLT_MIN && p->clamp <= (double)FLT_MAX))
            return moet_fail(MOET_INVALID, "problem: clamp is %g, must be %g to %g", p->clamp, (double)FLT_MIN,
                             (double)FLT_MAX);
    } else if (p->clamp != 0) {
        return moet_fail(MOET_INVALID, "problem: clamp is %g, must be 0 with activation %s", p->clamp,
                         activation_names[p->activation]);
    }
    if (p->combine == MOET_COMBINE_PADDLE && p->prob != MOET_PROB_COMBINE)
        return moet_fail(MOET_INVALID, "problem: combine paddle differs with prob combine only, prob is %s",
                         prob_names[p->prob]);
    return MOET_OK;
}

moet_status moet_problem_validate(const moet_problem *problem)
{
    MOET_NEED(problem);
    for (int32_t i = 0; i < MOET_COUNT_OF(fields); i++) {
        const field *f = &fields[i];
        if (f->type != FIELD_NAME) continue;
        int32_t value = field_get(f, problem);
        if (value < 0 || value >= name_count(f->names))
            return moet_fail(MOET_INVALID, "problem: %s is %d, known are 0 to %d", f->key, value,
                             name_count(f->names) - 1);
    }
    if (problem->experts < 1 || problem->experts > MOET_MAX_EXPERTS)
        return moet_fail(MOET_INVALID, "problem: experts is %d, must be 1 to %d", problem->experts, MOET_MAX_EXPERTS);
    if (problem->hidden < 1 || problem->hidden > MOET_MAX_DIM)
        return moet_fail(MOET_INVALID, "problem: hidden is %d, must be 1 to %d", problem->hidden, MOET_MAX_DIM);
    if (problem->inter < 1 || problem->inter > MOET_MAX_DIM)
        return moet_fail(MOET_INVALID, "problem: inter is %d, must be 1 to %d", problem->inter, MOET_MAX_DIM);
    MOET_TRY(validate_path(problem));
    if (problem->op == MOET_OP_FFN && (problem->hidden % 8 || problem->inter % 8))
        return moet_fail(MOET_INVALID, "problem: hidden %d and inter %d of op %s must be multiples of 8",
                         problem->hidden, problem->inter, op_names[problem->op]);
    int32_t n = moet_problem_n(problem), k = moet_problem_k(problem);
    if (n % 8 || k % 8)
        return moet_fail(MOET_INVALID,
                         "problem: N = %d and K = %d of op %s must be multiples of 8 (hidden %d, inter %d)", n, k,
                         op_names[problem->op], problem->hidden, problem->inter);
    return MOET_OK;
}

/* "layout=nk"; what is written of it. */
static size_t field_format(const field *f, const moet_problem *problem, char *text, size_t size)
{
    int n;
    if (f->type == FIELD_REAL) {
        char real[REAL_SIZE];
        double number;
        memcpy(&number, (const char *)problem + f->offset, sizeof number);
        real_format(number, real);
        n = snprintf(text, size, "%s=%s", f->key, real);
    } else if (f->type == FIELD_NUMBER)
        n = snprintf(text, size, "%s=%d", f->key, field_get(f, problem));
    else
        n = snprintf(text, size, "%s=%s", f->key, f->names[field_get(f, problem)]);
    return (size_t)n;
}

void moet_problem_format(const moet_problem *problem, char *text)
{
    size_t used = 0;
    for (int32_t i = 0; i < field_count(problem->op); i++) {
        if (i) text[used++] = ',';
        used += field_format(&fields[i], problem, text + used, MOET_KEY_SIZE - used);
    }
}

int32_t moet_problem_differences(const moet_problem *problem, const moet_problem *other, char *text)
{
    size_t used = 0;
    int32_t count = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < field_count(problem->op); i++) {
        char there[MOET_KEY_SIZE];
        const size_t begin = used;
        if (count) text[used++] = ',';
        const size_t length = field_format(&fields[i], problem, text + used, MOET_KEY_SIZE - used);
        field_format(&fields[i], other, there, sizeof there);
        if (strcmp(text + used, there) == 0) {
            text[used = begin] = '\0';
        } else {
            used += length;
            count++;
        }
    }
    return count;
}

moet_status moet_problem_parse(const char *text, moet_problem *problem)
{
    MOET_NEED(text);
    MOET_NEED(problem);
    moet_problem result = {0};
    const char *at = text;
    for (int32_t i = 0; i < field_count(result.op); i++) { /* op is the first */
        const field *f = &fields[i];
        size_t key_length = strlen(f->key);
        if (strncmp(at, f->key, key_length) != 0 || at[key_length] != '=')
            return moet_fail(MOET_MALFORMED, "problem key '%.200s': '%s=' expected at character %d", text, f->key,
                             (int)(at - text));
        at += key_length + 1;
        size_t length = strcspn(at, ",");
        char value_text[REAL_SIZE];
        if (length == 0 || length >= sizeof value_text)
            return moet_fail(MOET_MALFORMED, "problem key '%.200s': no value for '%s'", text, f->key);
        memcpy(value_text, at, length);
        value_text[length] = '\0';
        int32_t value = 0;
        if (f->type == FIELD_REAL) {
            double number;
            if (!real_parse(value_text, &number))
                return moet_fail(MOET_MALFORMED,
                                 "problem key '%.200s': %s is '%s', a number in its shortest form "
                                 "expected",
                                 text, f->key, value_text);
            memcpy((char *)&result + f->offset, &number, sizeof number);
        } else if (f->type == FIELD_NUMBER) {
            char *end;
            errno = 0;
            long number = strtol(value_text, &end, 10);
            /* Canonical digits only, so that one problem has one text. */
            if (*end || errno || value_text[0] < '1' || value_text[0] > '9' || number > MOET_MAX_DIM)
                return moet_fail(MOET_MALFORMED, "problem key '%.200s': %s is '%s', a number from 1 to %d expected",
                                 text, f->key, value_text, MOET_MAX_DIM);
            value = (int32_t)number;
        } else {
            value = name_index(f->names, value_text);
            if (value < 0) {
                char known[128];
                name_list(f->names, known, sizeof known);
                return moet_fail(MOET_UNSUPPORTED, "problem key '%.200s': %s is '%s', known to this version are %s",
                                 text, f->key, value_text, known);
            }
        }
        if (f->type != FIELD_REAL) field_set(f, &result, value);
        at += length;
        bool last = i == field_count(result.op) - 1;
        if (last ? *at != '\0' : *at != ',')
            return moet_fail(MOET_MALFORMED, "problem key '%.200s': %s at character %d", text,
                             last ? "more text than expected" : "a ',' is missing", (int)(at - text));
        at += !last;
    }
    MOET_TRY(moet_problem_validate(&result));
    *problem = result;
    return MOET_OK;
}
