/* ncu.c: see ncu.h. */
#include "ncu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"

#define MOST_KERNELS 4096
#define MOST_FIELDS 1024

static const struct {
    const char *name;
    moet_ncu_join join;
} metrics[] = {
#define MOET_X(name, text, join) {text, MOET_NCU_##join},
    MOET_NCU_TABLE(MOET_X)
#undef MOET_X
};

/* What a unit is in ns, bytes or percent; others are as they are. */
static const struct {
    const char *name;
    double factor;
} units[] = {
    {"ns", 1},        {"us", 1e3},     {"ms", 1e6},    {"s", 1e9},     {"nsecond", 1}, {"usecond", 1e3},
    {"msecond", 1e6}, {"second", 1e9}, {"Kbyte", 1e3}, {"Mbyte", 1e6}, {"Gbyte", 1e9}, {"Tbyte", 1e12},
};

const char *moet_ncu_metric_name(moet_ncu_metric metric) { return metrics[metric].name; }

void moet_ncu_stall_name(moet_ncu_metric stall, char text[32])
{
    static const char before[] = "smsp__average_warps_issue_stalled_", behind[] = "_per_issue_active.ratio";
    const char *name = metrics[stall].name + strlen(before);
    snprintf(text, 32, "%.*s", (int)(strlen(name) - strlen(behind)), name);
    for (char *c = text; *c != '\0'; c++) {
        *c = *c == '_' ? ' ' : *c;
    }
}

char *moet_ncu_metric_list(void)
{
    size_t size = 1;
    for (int32_t i = 0; i < MOET_NCU_METRIC_COUNT; i++) {
        size += strlen(metrics[i].name) + 1;
    }
    char *list = malloc(size), *end = list;
    for (int32_t i = 0; list != NULL && i < MOET_NCU_METRIC_COUNT; i++) {
        end += sprintf(end, "%s%s", i > 0 ? "," : "", metrics[i].name);
    }
    return list;
}

void moet_ncu_report_release(moet_ncu_report *report)
{
    free(report->kernels);
    *report = (moet_ncu_report){0};
}

/* ---- messages ---- */

static moet_status fail_permission(void)
{
    return moet_fail(MOET_UNSUPPORTED,
                     "ncu may not read this GPU's counters (ERR_NVGPUCTRPERM): run as root, in a container with "
                     "--cap-add=SYS_ADMIN, or let the driver's option NVreg_RestrictProfilingToAdminUsers=0 allow "
                     "everyone; `--tool nsys` needs none");
}

moet_status moet_ncu_explain(const char *messages)
{
    if (strstr(messages, "ERR_NVGPUCTRPERM") != NULL) {
        return fail_permission();
    }
    const char *line = strstr(messages, "moe-tune: "); /* what it ran failed, and said why */
    if (line == NULL) {
        line = strstr(messages, "==ERROR==");
    }
    if (line == NULL) { /* the last one */
        const char *end = messages + strlen(messages);
        while (end > messages && (end[-1] == '\n' || end[-1] == '\r')) end--;
        line = end;
        while (line > messages && line[-1] != '\n') line--;
    }
    const int length = (int)strcspn(line, "\r\n");
    return moet_fail(MOET_DEVICE, "ncu failed: %.*s", length > 0 ? (length < 300 ? length : 300) : 16,
                     length > 0 ? line : "it says nothing");
}

/* ---- CSV ---- */

/* Cuts a line of CSV into its fields, in place; their number, -1 for too many or a quote that is not closed. */
static int32_t split(char *line, char **fields)
{
    int32_t count = 0;
    for (char *at = line;;) {
        char *end = at;
        if (count == MOST_FIELDS) {
            return -1;
        }
        fields[count++] = at;
        if (*at == '"') {
            const char *from = at + 1;
            for (;; from++) {
                if (*from == '\0') {
                    return -1;
                }
                if (*from == '"' && *++from != '"') { /* else two of them stand for one */
                    break;
                }
                *end++ = *from;
            }
            at = (char *)from;
        } else {
            at += strcspn(at, ",");
            end = at;
        }
        const bool is_last = *at == '\0';
        if (!is_last && *at != ',') {
            return -1;
        }
        *end = '\0';
        if (is_last) {
            return count;
        }
        at++;
    }
}

/* The next line that is not empty, cut off at its end; NULL behind the last one. */
static char *next_line(char **rest, int32_t *number)
{
    while (*rest != NULL && **rest != '\0') {
        char *line = strsep(rest, "\n");
        ++*number;
        line[strcspn(line, "\r")] = '\0';
        if (*line != '\0') {
            return line;
        }
    }
    return NULL;
}

/* "1,377,049" and "69.83" are numbers; what else there is ("n/a", "nan") is NaN. false: neither. */
static bool parse_number(const char *text, double *value)
{
    char digits[64];
    size_t used = 0;
    for (; *text != '\0' && used + 1 < sizeof digits; text++) {
        if (*text != ',') {
            digits[used++] = *text;
        }
    }
    digits[used] = '\0';
    if (used == 0 || strncmp(digits, "n/a", 3) == 0 || strcmp(digits, "nan") == 0) {
        *value = NAN;
        return true;
    }
    char *end = NULL;
    *value = strtod(digits, &end);
    return *end == '\0' && *text == '\0' && isfinite(*value);
}

/* Where each metric stands, and what its unit is. */
typedef struct layout {
    int32_t field_count, name_field;
    int32_t fields[MOET_NCU_METRIC_COUNT]; /* -1: not there */
    double factors[MOET_NCU_METRIC_COUNT];
} layout;

static bool is_header(char **fields, int32_t count) { return count > 1 && strcmp(fields[0], "ID") == 0; }

static moet_status read_header(const char *where, int32_t line, char **fields, int32_t count, layout *l)
{
    bool found = false;
    *l = (layout){.field_count = count, .name_field = -1};
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
        l->fields[m] = -1;
        l->factors[m] = 1;
    }
    for (int32_t i = 0; i < count; i++) {
        if (strcmp(fields[i], "Kernel Name") == 0) {
            l->name_field = i;
        }
        for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
            if (strcmp(fields[i], metrics[m].name) == 0) {
                l->fields[m] = i;
                found = true;
            }
        }
    }
    if (l->name_field < 0 || !found || l->fields[MOET_NCU_TIME_NS] < 0) {
        return moet_fail(MOET_MALFORMED, "%s:%d: no column '%s' is in ncu's output: it wants --csv --page raw", where,
                         line, l->name_field < 0 ? "Kernel Name" : metrics[MOET_NCU_TIME_NS].name);
    }
    return MOET_OK;
}

static void read_units(char **fields, layout *l)
{
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
        for (int32_t u = 0; l->fields[m] >= 0 && u < MOET_COUNT_OF(units); u++) {
            if (strcmp(fields[l->fields[m]], units[u].name) == 0) {
                l->factors[m] = units[u].factor;
            }
        }
    }
}

static moet_status read_kernel(const char *where, int32_t line, char **fields, const layout *l, moet_ncu_kernel *kernel)
{
    snprintf(kernel->name, sizeof kernel->name, "%s", fields[l->name_field]);
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
        kernel->values[m] = NAN;
        if (l->fields[m] >= 0 && !parse_number(fields[l->fields[m]], &kernel->values[m])) {
            return moet_fail(MOET_MALFORMED, "%s:%d: '%.40s' is no number (%s)", where, line, fields[l->fields[m]],
                             metrics[m].name);
        }
        kernel->values[m] *= l->factors[m];
    }
    if (!(kernel->values[MOET_NCU_TIME_NS] > 0)) {
        return moet_fail(MOET_MALFORMED, "%s:%d: a kernel without a time (%s)", where, line,
                         metrics[MOET_NCU_TIME_NS].name);
    }
    return MOET_OK;
}

/* ---- several kernels ---- */

static double join(const moet_ncu_report *report, moet_ncu_metric metric)
{
    double sum = 0, most = NAN, time = 0;
    bool any = false;
    for (int32_t i = 0; i < report->count; i++) {
        const double value = report->kernels[i].values[metric], own = report->kernels[i].values[MOET_NCU_TIME_NS];
        if (isnan(value)) {
            continue;
        }
        any = true;
        sum += metrics[metric].join == MOET_NCU_MEAN ? value * own : value;
        time += own;
        most = isnan(most) || value > most ? value : most;
    }
    if (!any) {
        return NAN;
    }
    return metrics[metric].join == MOET_NCU_MOST ? most : metrics[metric].join == MOET_NCU_SUM ? sum : sum / time;
}

static void join_all(moet_ncu_report *report)
{
    const moet_ncu_kernel *longest = &report->kernels[0];
    for (int32_t i = 1; i < report->count; i++) {
        if (report->kernels[i].values[MOET_NCU_TIME_NS] > longest->values[MOET_NCU_TIME_NS]) {
            longest = &report->kernels[i];
        }
    }
    memcpy(report->joined.name, longest->name, sizeof longest->name);
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
        report->joined.values[m] = join(report, (moet_ncu_metric)m);
    }
}

/* ---- the whole ---- */

static moet_status add_kernel(moet_ncu_report *report, const moet_ncu_kernel *kernel)
{
    if (report->count == MOST_KERNELS) {
        return moet_fail(MOET_MALFORMED, "ncu saw more than %d kernels: one launch has fewer", MOST_KERNELS);
    }
    moet_ncu_kernel *grown = realloc(report->kernels, ((size_t)report->count + 1) * sizeof *grown);
    if (grown == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for ncu's counters");
    }
    report->kernels = grown;
    report->kernels[report->count++] = *kernel;
    return MOET_OK;
}

static moet_status parse_lines(char *rest, const char *where, moet_ncu_report *report)
{
    char *fields[MOST_FIELDS];
    layout l = {0};
    int32_t number = 0;
    for (char *line; (line = next_line(&rest, &number)) != NULL;) {
        const bool is_message = l.field_count == 0 && *line != '"';
        if (is_message || strncmp(line, "==", 2) == 0) {
            continue;
        }
        const int32_t count = split(line, fields);
        if (count < 0) {
            return moet_fail(MOET_MALFORMED, "%s:%d: no line of CSV", where, number);
        }
        if (l.field_count == 0) {
            if (is_header(fields, count)) {
                MOET_TRY(read_header(where, number, fields, count, &l));
            }
            continue;
        }
        if (count != l.field_count) {
            return moet_fail(MOET_MALFORMED, "%s:%d: %d fields, but %d names: is the file whole?", where, number, count,
                             l.field_count);
        }
        moet_ncu_kernel kernel;
        if (fields[0][0] == '\0') {
            read_units(fields, &l);
        } else {
            MOET_TRY(read_kernel(where, number, fields, &l, &kernel));
            MOET_TRY(add_kernel(report, &kernel));
        }
    }
    return MOET_OK;
}

moet_status moet_ncu_parse(const char *text, const char *where, moet_ncu_report *report)
{
    moet_ncu_report result = {0};
    if (strstr(text, "ERR_NVGPUCTRPERM") != NULL) {
        return fail_permission();
    }
    char *copy = strdup(text);
    moet_status status =
        copy != NULL ? parse_lines(copy, where, &result) : moet_fail(MOET_NO_MEMORY, "no memory for ncu's counters");
    free(copy);
    if (status == MOET_OK && result.count == 0) {
        status = moet_fail(MOET_NOT_FOUND, "%s: ncu saw no kernel between the profiler's start and stop", where);
    }
    if (status != MOET_OK) {
        moet_ncu_report_release(&result);
        return status;
    }
    join_all(&result);
    *report = result;
    return MOET_OK;
}
