/* table: reads table.json (docs/table-format.md). The JSON parser is libcjson, bound when a table is opened. */
#include "table.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"

static const size_t table_limit_bytes = (size_t)256 << 20;
static const size_t cubin_limit_bytes = (size_t)64 << 20;
static const double largest_integer = 9007199254740992.0; /* 2^53: exact in JSON's double */
enum { text_limit = 1023, nesting_limit = 16, hash_digits = MOET_SHA256_TEXT_SIZE - 1 };

/* cJSON's own predicates would have to be bound too. */
static bool is_number(const cJSON *item) { return item->type & cJSON_Number; }
static bool is_null(const cJSON *item) { return item->type & cJSON_NULL; }
static bool is_object(const cJSON *item) { return item->type & cJSON_Object; }

/* ---- typed access, with the place in the file for messages ---- */

typedef struct reader {
    const char *dir; /* NULL: cubins are not read */
    const moet_device *device;
    moet_table *table;
    int64_t version;   /* of the document */
    char place[160];   /* "devices[0].problems[3].points[1]" */
    bool other_device; /* inside another device's section: checked, then refused */
    char device_key[MOET_DEVICE_KEY_SIZE];
} reader;

__attribute__((format(printf, 2, 3))) static void say_malformed(const reader *r, const char *format, ...)
{
    char text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    moet_last_error_set("%s%stable.json: %s%s%s; emit the table again", r->dir ? r->dir : "", r->dir ? "/" : "",
                        r->place, r->place[0] ? ": " : "", text);
}

/* No function, for moet_fail's reason. */
#define malformed(r, ...) (say_malformed(r, __VA_ARGS__), MOET_MALFORMED)

/* The member, of the wanted type; a repeated name is malformed. */
static moet_status get(const reader *r, const cJSON *object, const char *name, int types, const cJSON **item)
{
    const cJSON *found = NULL;
    for (const cJSON *child = object->child; child; child = child->next) {
        if (!child->string || strcmp(child->string, name) != 0) continue;
        if (found) return malformed(r, "\"%s\" stands twice", name);
        found = child;
    }
    if (!found) return malformed(r, "\"%s\" is missing", name);
    if (!(found->type & types)) return malformed(r, "\"%s\" has the wrong type", name);
    *item = found;
    return MOET_OK;
}

static moet_status check_integer(const reader *r, const cJSON *item, const char *name, int64_t low, int64_t high,
                                 int64_t *value)
{
    double number = item->valuedouble;
    if (!is_number(item) || !(fabs(number) <= largest_integer) || number != (double)(int64_t)number)
        return malformed(r, "\"%s\" is no integer", name);
    if (number < (double)low || number > (double)high)
        return malformed(r, "\"%s\" is %lld, must be %lld to %lld", name, (long long)number, (long long)low,
                         (long long)high);
    *value = (int64_t)number;
    return MOET_OK;
}

static moet_status get_integer(const reader *r, const cJSON *object, const char *name, int64_t low, int64_t high,
                               int64_t *value)
{
    const cJSON *item;
    MOET_TRY(get(r, object, name, cJSON_Number, &item));
    return check_integer(r, item, name, low, high, value);
}

static moet_status get_text(const reader *r, const cJSON *object, const char *name, size_t limit, const char **text)
{
    const cJSON *item;
    MOET_TRY(get(r, object, name, cJSON_String, &item));
    if (strlen(item->valuestring) > limit) return malformed(r, "\"%s\" is longer than %zu bytes", name, limit);
    *text = item->valuestring;
    return MOET_OK;
}

/* *text is NULL for null. */
static moet_status get_text_or_null(const reader *r, const cJSON *object, const char *name, size_t limit,
                                    const char **text)
{
    const cJSON *item;
    MOET_TRY(get(r, object, name, cJSON_String | cJSON_NULL, &item));
    *text = NULL;
    return is_null(item) ? MOET_OK : get_text(r, object, name, limit, text);
}

static bool is_hash(const char *text)
{
    return strlen(text) == hash_digits && strspn(text, "0123456789abcdef") == hash_digits;
}

static moet_status check_depth(const reader *r, const cJSON *item, int depth)
{
    if (depth > nesting_limit) return malformed(r, "nested deeper than %d", nesting_limit);
    for (const cJSON *child = item->child; child; child = child->next) MOET_TRY(check_depth(r, child, depth + 1));
    return MOET_OK;
}

/* Room for one more element behind count; NULL out of memory. */
static void *grow(void *array, int32_t count, size_t element_bytes)
{
    /* Powers of two, so that growing one by one stays linear. */
    if (count & (count - 1)) return array;
    return realloc(array, (count ? 2 * (size_t)count : 1) * element_bytes);
}

static moet_status out_of_memory(void) { return moet_fail(MOET_NO_MEMORY, "table: out of memory"); }

static int32_t array_size(const cJSON *array)
{
    int32_t n = 0;
    for (const cJSON *child = array->child; child; child = child->next) n++;
    return n;
}

/* ---- refusals ---- */

__attribute__((format(printf, 3, 4))) static moet_status refuse(reader *r, const char *what, const char *format, ...)
{
    char reason[700], line[1100];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    snprintf(line, sizeof line, "%s: %s", what, reason);
    moet_table *table = r->table;
    char **grown = grow(table->refusals, table->refusal_count, sizeof *grown);
    if (!grown) return out_of_memory();
    table->refusals = grown;
    if (!(table->refusals[table->refusal_count] = strdup(line))) return out_of_memory();
    table->refusal_count++;
    return MOET_OK;
}

/* ---- cubins ---- */

/* "sm_90a" runs on 9.0 alone; "sm_80" on 8.0 and later 8.x. */
static bool arch_runs(const char *arch, const moet_device_info *info)
{
    int number = 0, used = 0;
    if (sscanf(arch, "sm_%d%n", &number, &used) != 1) return false;
    int major = number / 10, minor = number % 10;
    if (arch[used] == 'a') return major == info->cc_major && minor == info->cc_minor;
    return arch[used] == '\0' && major == info->cc_major && minor <= info->cc_minor;
}

/* Reads a cubin once. The array has its full size from the start, so that pointers into it stay. */
static moet_status load_cubin(reader *r, const char *sha256, const char *arch, const moet_cubin **cubin)
{
    moet_table *table = r->table;
    for (int32_t i = 0; i < table->cubin_count; i++) {
        if (strcmp(table->cubins[i].sha256, sha256) == 0) {
            *cubin = &table->cubins[i];
            return MOET_OK;
        }
    }
    char path[PATH_MAX], actual[MOET_SHA256_TEXT_SIZE];
    char *bytes;
    size_t size_bytes;
    if (snprintf(path, sizeof path, "%s/%s.cubin", r->dir, sha256) >= (int)sizeof path)
        return moet_fail(MOET_IO, "%s: the path is too long", r->dir);
    const moet_status status = moet_file_read(path, cubin_limit_bytes, &bytes, &size_bytes);
    if (status == MOET_NOT_FOUND) return moet_fail(status, "%s; copy the table's folder whole", moet_last_error());
    MOET_TRY(status);
    moet_sha256_text(bytes, size_bytes, actual);
    if (strcmp(actual, sha256) != 0) {
        free(bytes);
        return moet_fail(MOET_MISMATCH, "%s: its SHA-256 is %s; emit the table again", path, actual);
    }
    moet_cubin *entry = &table->cubins[table->cubin_count++];
    *entry = (moet_cubin){.bytes = bytes, .size_bytes = size_bytes};
    strcpy(entry->sha256, actual);
    snprintf(entry->arch, sizeof entry->arch, "%s", arch);
    *cubin = entry;
    return MOET_OK;
}

/* ---- kernels and winners ---- */

/* The members that winners and defaults share. */
typedef struct kernel_text {
    const char *config, *validator;
    int64_t version;
    int32_t cubin_count;
    struct {
        const char *sha256, *arch;
    } cubins[MOET_MAX_CUBINS];
} kernel_text;

/* Version 1: a kernel has one cubin or none. */
static moet_status read_single_cubin(const reader *r, const cJSON *object, kernel_text *kernel)
{
    const char *sha256, *arch;
    MOET_TRY(get_text_or_null(r, object, "cubin", hash_digits, &sha256));
    MOET_TRY(get_text_or_null(r, object, "arch", 15, &arch));
    if (sha256 && !is_hash(sha256)) return malformed(r, "\"cubin\" is no SHA-256");
    if (!sha256 != !arch) return malformed(r, "\"cubin\" and \"arch\" must both be there or both be null");
    kernel->cubin_count = sha256 != NULL;
    kernel->cubins[0].sha256 = sha256;
    kernel->cubins[0].arch = arch;
    return MOET_OK;
}

static moet_status read_cubins(const reader *r, const cJSON *object, kernel_text *kernel)
{
    const cJSON *list;
    MOET_TRY(get(r, object, "cubins", cJSON_Array, &list));
    if (array_size(list) > MOET_MAX_CUBINS)
        return malformed(r, "%d cubins, must be 0 to %d", array_size(list), MOET_MAX_CUBINS);
    int32_t n = 0;
    for (const cJSON *item = list->child; item; item = item->next, n++) {
        if (!is_object(item)) return malformed(r, "cubins[%d]: an object is expected", n);
        MOET_TRY(get_text(r, item, "sha256", hash_digits, &kernel->cubins[n].sha256));
        MOET_TRY(get_text(r, item, "arch", 15, &kernel->cubins[n].arch));
        if (!is_hash(kernel->cubins[n].sha256)) return malformed(r, "cubins[%d]: \"sha256\" is no SHA-256", n);
    }
    kernel->cubin_count = n;
    return MOET_OK;
}

static moet_status read_kernel_text(const reader *r, const cJSON *object, kernel_text *kernel)
{
    MOET_TRY(get_text(r, object, "config", MOET_CONFIG_SIZE - 1, &kernel->config));
    MOET_TRY(get_integer(r, object, "version", 0, INT32_MAX, &kernel->version));
    MOET_TRY(get_text(r, object, "validator", 63, &kernel->validator));
    return r->version == 1 ? read_single_cubin(r, object, kernel) : read_cubins(r, object, kernel);
}

/* How many kernels this build would compile for a config on this device; 0: nothing. */
static int32_t count_sources(const moet_problem *problem, const moet_config *config, const moet_device_info *info)
{
    moet_source source;
    char why[MOET_REASON_SIZE];
    int32_t n = 0;
    /* What does not apply is refused when a plan prepares it; its sources mean nothing. */
    if (!config->family->source || !config->family->applicable(problem, config, info, why)) return 0;
    while (n < MOET_MAX_CUBINS && config->family->source(problem, config, info->cc_major, info->cc_minor, n, &source))
        n++;
    return n;
}

/* For a validator's place in a message. */
static const char *or_none(const char *text) { return *text ? text : "none"; }

/* Whether this build on this device can use it; else why[] holds expected and found. */
static bool kernel_serves(const reader *r, const moet_problem *problem, const kernel_text *kernel, moet_config *config,
                          char *why)
{
    if (r->other_device) return moet_device_refuse_key(r->device_key, r->device->key, why);
    /* Another version may have other parameters: it is looked at before the config is read. */
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(kernel->config, ":"), kernel->config);
    const moet_family *family = moet_family_find(name);
    if (family && kernel->version != family->version)
        return moet_refuse(why, "kernel family %s version %lld expected, %d found", family->name,
                           (long long)kernel->version, family->version);
    if (moet_config_parse(kernel->config, config) != MOET_OK) return moet_refuse(why, "%.200s", moet_last_error());
    char validator[MOET_VALIDATOR_SIZE];
    if (moet_family_validator(family, validator) != MOET_OK)
        return moet_refuse(why, "%.60s expected: %.160s", kernel->validator, moet_last_error());
    if (strcmp(validator, kernel->validator) != 0)
        return moet_refuse(why, "%.60s expected, %.60s found", or_none(kernel->validator), or_none(validator));
    const moet_device_info *info = &r->device->info;
    for (int32_t i = 0; i < kernel->cubin_count; i++) {
        const char *arch = kernel->cubins[i].arch;
        if (!arch_runs(arch, info))
            return moet_refuse(why, "kernel for %s expected to run, the device has compute capability %d.%d", arch,
                               info->cc_major, info->cc_minor);
    }
    /* A family takes its kernels by their place in the list. */
    int32_t wanted = count_sources(problem, config, info);
    if (kernel->cubin_count > 0 && wanted > 0 && kernel->cubin_count != wanted)
        return moet_refuse(why, "%d compiled kernels expected, %d found", wanted, kernel->cubin_count);
    return true;
}

static moet_status load_cubins(reader *r, const kernel_text *kernel, const moet_cubin **cubins, int32_t *cubin_count)
{
    *cubin_count = 0;
    if (!r->dir) return MOET_OK;
    for (int32_t i = 0; i < kernel->cubin_count; i++)
        MOET_TRY(load_cubin(r, kernel->cubins[i].sha256, kernel->cubins[i].arch, &cubins[i]));
    *cubin_count = kernel->cubin_count;
    return MOET_OK;
}

static moet_status read_winner(reader *r, const cJSON *point, const char *name, const moet_problem *problem,
                               const char *problem_key, const moet_table_point *at, moet_table_winner *winner)
{
    const cJSON *object, *measured_kind;
    kernel_text kernel;
    int64_t time_ns, ignored;
    MOET_TRY(get(r, point, name, cJSON_Object | cJSON_NULL, &object));
    if (is_null(object)) return MOET_OK;
    MOET_TRY(read_kernel_text(r, object, &kernel));
    MOET_TRY(get(r, object, "device_counts", cJSON_True | cJSON_False, &measured_kind));
    MOET_TRY(get_integer(r, object, "time_ns", 1, INT64_MAX, &time_ns));
    MOET_TRY(get_integer(r, object, "noise_ns", 0, INT64_MAX, &ignored));
    const cJSON *default_time;
    MOET_TRY(get(r, object, "default_time_ns", cJSON_Number | cJSON_NULL, &default_time));
    if (is_number(default_time)) MOET_TRY(check_integer(r, default_time, "default_time_ns", 1, INT64_MAX, &ignored));

    char why[MOET_REASON_SIZE];
    moet_config config = {0};
    moet_algorithm *algorithms = NULL;
    moet_table_other *others = NULL;
    int32_t algorithm_count = 0, other_count = 0;
    moet_status status = moet_table_read_algorithms(object, &algorithms, &algorithm_count, why);
    if (status == MOET_OK) status = moet_table_read_others(object, &others, &other_count, why);
    if (status != MOET_OK) {
        free(algorithms);
        return status == MOET_MALFORMED ? malformed(r, "%s", why) : status;
    }
    if (!kernel_serves(r, problem, &kernel, &config, why)) {
        free(algorithms);
        free(others);
        winner->refused = true;
        char what[MOET_KEY_SIZE + 64];
        snprintf(what, sizeof what, "%s rows=%lld max=%d %s", problem_key, (long long)at->rows, at->max, name);
        return refuse(r, what, "%s", why);
    }
    moet_table_winner result = {.present = true,
                                .config = config,
                                .time_ns = time_ns,
                                .algorithm_count = algorithm_count,
                                .algorithms = algorithms,
                                .other_count = other_count,
                                .others = others};
    status = load_cubins(r, &kernel, result.cubins, &result.cubin_count);
    if (status != MOET_OK) {
        free(algorithms);
        free(others);
        return status;
    }
    *winner = result;
    r->table->entry_count++;
    return MOET_OK;
}

/* ---- points, problems, devices ---- */

static moet_status read_point(reader *r, const cJSON *object, const char *problem_key, const moet_problem *problem,
                              moet_table_point *point)
{
    const int32_t experts = problem->experts;
    int64_t rows, active, max;
    const char *ignored;
    const cJSON *counts;
    MOET_TRY(get_text(r, object, "workload", text_limit, &ignored));
    MOET_TRY(get_text(r, object, "skew", text_limit, &ignored));
    MOET_TRY(get_integer(r, object, "rows", 1, MOET_MAX_ROWS, &rows));
    MOET_TRY(get_integer(r, object, "active", 1, experts, &active));
    MOET_TRY(get_integer(r, object, "max", 1, MOET_MAX_ROWS, &max));
    MOET_TRY(get(r, object, "counts", cJSON_Array, &counts));
    if (array_size(counts) != experts) return malformed(r, "%d counts for %d experts", array_size(counts), experts);
    point->counts = calloc((size_t)experts, sizeof *point->counts);
    if (!point->counts) return out_of_memory();
    int32_t e = 0;
    for (const cJSON *item = counts->child; item; item = item->next) {
        int64_t value;
        MOET_TRY(check_integer(r, item, "counts", 0, MOET_MAX_ROWS, &value));
        point->counts[e++] = (int32_t)value;
    }
    moet_routing routing;
    if (moet_routing_summarize(point->counts, experts, &routing) != MOET_OK)
        return malformed(r, "%s", moet_last_error());
    if (routing.rows != rows || routing.active != active || routing.max != max)
        return malformed(r, "the counts say rows %lld, active %d, max %d, not %lld, %lld, %lld",
                         (long long)routing.rows, routing.active, routing.max, (long long)rows, (long long)active,
                         (long long)max);
    point->rows = rows;
    point->max = (int32_t)max;
    point->max_over_mean = routing.max_over_mean;
    point->log_rows = log((double)rows);
    point->log_skew = log(routing.max_over_mean);
    MOET_TRY(read_winner(r, object, "any", problem, problem_key, point, &point->winner[MOET_TABLE_ANY]));
    return read_winner(r, object, "device_counts", problem, problem_key, point,
                       &point->winner[MOET_TABLE_DEVICE_COUNTS]);
}

static moet_status read_default(reader *r, const cJSON *object, moet_table_problem *problem)
{
    kernel_text kernel;
    moet_table_default result = {0};
    char why[MOET_REASON_SIZE];
    MOET_TRY(read_kernel_text(r, object, &kernel));
    /* A default of another version is of no use, and no entry either: nobody asked for it by name. */
    if (!kernel_serves(r, &problem->problem, &kernel, &result.config, why)) return MOET_OK;
    MOET_TRY(load_cubins(r, &kernel, result.cubins, &result.cubin_count));
    if (result.cubin_count > 0) problem->defaults[problem->default_count++] = result;
    return MOET_OK;
}

/* Without experts where this build does not know what the problem is. */
static moet_status read_problem(reader *r, const cJSON *object, moet_table_problem *problem)
{
    const char *key;
    const cJSON *points, *defaults;
    MOET_TRY(get_text(r, object, "key", MOET_KEY_SIZE - 1, &key));
    const moet_status parsed = moet_problem_parse(key, &problem->problem);
    if (parsed == MOET_UNSUPPORTED && r->other_device) return MOET_OK;
    if (parsed == MOET_UNSUPPORTED) return refuse(r, key, "this libmoet is older than the table");
    if (parsed != MOET_OK) return malformed(r, "%s", moet_last_error());
    MOET_TRY(get(r, object, "points", cJSON_Array, &points));
    MOET_TRY(get(r, object, "defaults", cJSON_Array, &defaults));
    problem->points = calloc((size_t)array_size(points) + 1, sizeof *problem->points);
    problem->defaults = calloc((size_t)array_size(defaults) + 1, sizeof *problem->defaults);
    if (!problem->points || !problem->defaults) return out_of_memory();
    size_t place = strlen(r->place);
    for (const cJSON *item = points->child; item; item = item->next) {
        snprintf(r->place + place, sizeof r->place - place, ".points[%d]", problem->point_count);
        if (!is_object(item)) return malformed(r, "an object is expected");
        MOET_TRY(read_point(r, item, key, &problem->problem, &problem->points[problem->point_count++]));
    }
    int32_t i = 0;
    for (const cJSON *item = defaults->child; item; item = item->next) {
        snprintf(r->place + place, sizeof r->place - place, ".defaults[%d]", i++);
        if (!is_object(item)) return malformed(r, "an object is expected");
        MOET_TRY(read_default(r, item, problem));
    }
    r->place[place] = '\0';
    return MOET_OK;
}

static moet_status note_foreign(moet_table *table, const moet_problem *problem)
{
    moet_problem *grown = grow(table->foreign, table->foreign_count, sizeof *grown);
    if (!grown) return out_of_memory();
    table->foreign = grown;
    table->foreign[table->foreign_count++] = *problem;
    return MOET_OK;
}

/* Problems of this device are kept; another device's are read for their form and then dropped. */
static moet_status keep_problem(reader *r, const moet_table_problem *problem)
{
    moet_table *table = r->table;
    if (moet_table_find(table, &problem->problem)) return malformed(r, "the problem stands twice");
    moet_table_problem *grown = grow(table->problems, table->problem_count, sizeof *grown);
    if (!grown) return out_of_memory();
    table->problems = grown;
    table->problems[table->problem_count++] = *problem;
    return MOET_OK;
}

static moet_status read_device(reader *r, const cJSON *object)
{
    static const char *const ceilings_names[] = {"dense_flops_per_s", "copy_bytes_per_s", "read_bytes_per_s"};
    const char *key, *text;
    const cJSON *ceilings, *problems;
    int64_t number;
    bool has_rates;
    moet_device_rates rates;
    char why[MOET_REASON_SIZE];
    MOET_TRY(get_text(r, object, "key", MOET_DEVICE_KEY_SIZE - 1, &key));
    MOET_TRY(get_text(r, object, "backend", 7, &text));
    MOET_TRY(get_text(r, object, "name", 127, &text));
    MOET_TRY(get_integer(r, object, "cc_major", 0, 1000, &number));
    MOET_TRY(get_integer(r, object, "cc_minor", 0, 1000, &number));
    MOET_TRY(get_integer(r, object, "sm_count", 1, INT32_MAX, &number));
    MOET_TRY(get_integer(r, object, "memory_bytes", 0, INT64_MAX, &number));
    MOET_TRY(get_integer(r, object, "power_limit_mw", 0, INT64_MAX, &number));
    MOET_TRY(get_text(r, object, "partition", 63, &text));
    MOET_TRY(get_text(r, object, "driver", 31, &text));
    MOET_TRY(get_integer(r, object, "driver_cuda_version", 0, INT32_MAX, &number));
    MOET_TRY(get(r, object, "ceilings", cJSON_Object, &ceilings));
    for (int32_t i = 0; i < MOET_COUNT_OF(ceilings_names); i++)
        MOET_TRY(get_integer(r, ceilings, ceilings_names[i], 0, INT64_MAX, &number));
    if (moet_table_read_rates(object, &has_rates, &rates, why) != MOET_OK) return malformed(r, "%s", why);
    MOET_TRY(get(r, object, "problems", cJSON_Array, &problems));

    strcpy(r->device_key, key);
    r->other_device = strcmp(key, r->device->key) != 0;
    if (!r->other_device && has_rates) {
        r->table->has_rates = true;
        r->table->rates = rates;
    }
    const moet_status ep = moet_table_read_ep(object, r->other_device ? NULL : r->table, why);
    if (ep != MOET_OK) return ep == MOET_MALFORMED ? malformed(r, "%s", why) : ep;
    size_t place = strlen(r->place);
    int32_t i = 0;
    for (const cJSON *item = problems->child; item; item = item->next) {
        snprintf(r->place + place, sizeof r->place - place, ".problems[%d]", i++);
        if (!is_object(item)) return malformed(r, "an object is expected");
        moet_table_problem problem = {0};
        moet_status status = read_problem(r, item, &problem);
        const bool is_known = problem.problem.experts > 0;
        if (status == MOET_OK && is_known)
            status = r->other_device ? note_foreign(r->table, &problem.problem) : keep_problem(r, &problem);
        if (status != MOET_OK || r->other_device || !is_known) moet_table_problem_release(&problem);
        MOET_TRY(status);
    }
    return MOET_OK;
}

/* ---- the document ---- */

/* docs/table-format.md, "Hash": the text without the 64 digits behind the first "hash". */
static moet_status check_hash(const reader *r, const char *text, size_t size_bytes, const char *claimed)
{
    static const char name[] = "\"hash\"";
    const char *at = memmem(text, size_bytes, name, sizeof name - 1);
    const char *digits = at ? memmem(at, size_bytes - (size_t)(at - text), claimed, hash_digits) : NULL;
    if (!digits) return malformed(r, "\"hash\" is not written plainly");
    char *blank = malloc(size_bytes), actual[MOET_SHA256_TEXT_SIZE];
    if (!blank) return out_of_memory();
    size_t before = (size_t)(digits - text);
    memcpy(blank, text, before);
    memcpy(blank + before, digits + hash_digits, size_bytes - before - hash_digits);
    moet_sha256_text(blank, size_bytes - hash_digits, actual);
    free(blank);
    if (strcmp(actual, claimed) != 0)
        return moet_fail(MOET_MISMATCH,
                         "%s/table.json: its hash says %s, its content is %s: it was changed by hand or "
                         "damaged; emit the table again",
                         r->dir ? r->dir : "", claimed, actual);
    return MOET_OK;
}

/* At least as many as the document names, of any version. */
static int32_t count_cubins(const cJSON *item)
{
    int32_t n = 0;
    for (const cJSON *child = item->child; child; child = child->next) {
        if (child->string) n += strcmp(child->string, "cubin") == 0 || strcmp(child->string, "sha256") == 0;
        n += count_cubins(child);
    }
    return n;
}

static moet_status read_document(reader *r, const cJSON *root, const char *text, size_t size_bytes, bool checks_hash)
{
    const char *format, *hash, *parent;
    const cJSON *devices;
    if (!is_object(root)) return malformed(r, "an object is expected");
    MOET_TRY(check_depth(r, root, 0));
    MOET_TRY(get_text(r, root, "format", text_limit, &format));
    if (strcmp(format, "moe-tune table") != 0) return malformed(r, "\"format\" is '%.60s', no moe-tune table", format);
    MOET_TRY(get_integer(r, root, "version", 1, INT32_MAX, &r->version));
    if (r->version > MOET_TABLE_FORMAT_VERSION)
        return moet_fail(MOET_MISMATCH,
                         "%s/table.json: format version %d or older expected, %lld found; emit the table with this "
                         "version of moe-tune",
                         r->dir ? r->dir : "", MOET_TABLE_FORMAT_VERSION, (long long)r->version);
    MOET_TRY(get_text(r, root, "hash", hash_digits, &hash));
    if (!is_hash(hash)) return malformed(r, "\"hash\" is no SHA-256");
    if (checks_hash) MOET_TRY(check_hash(r, text, size_bytes, hash));
    strcpy(r->table->hash, hash);
    MOET_TRY(get_text_or_null(r, root, "parent", hash_digits, &parent));
    if (parent && !is_hash(parent)) return malformed(r, "\"parent\" is no SHA-256");
    MOET_TRY(get(r, root, "devices", cJSON_Array, &devices));
    r->table->cubins = calloc((size_t)count_cubins(root) + 1, sizeof *r->table->cubins);
    if (!r->table->cubins) return out_of_memory();
    int32_t i = 0;
    for (const cJSON *item = devices->child; item; item = item->next) {
        snprintf(r->place, sizeof r->place, "devices[%d]", i++);
        if (!is_object(item)) return malformed(r, "an object is expected");
        MOET_TRY(read_device(r, item));
    }
    const char *repeated = moet_json_repeated(root); /* of those that nobody has asked for */
    r->place[0] = '\0';
    return repeated ? malformed(r, "\"%s\" stands twice", repeated) : MOET_OK;
}

moet_status moet_table_parse(const char *text, size_t size_bytes, const char *dir, bool checks_hash,
                             const moet_device *device, moet_table **table)
{
    reader r = {.dir = dir, .device = device};
    moet_json_api json;
    cJSON *root = NULL;
    MOET_TRY(moet_json_bind(&json));
    moet_status status = MOET_OK;
    if (!(r.table = calloc(1, sizeof *r.table))) return out_of_memory();
    const char *end = NULL;
    root = json.parse(text, size_bytes, &end, false);
    if (!root) {
        size_t at = end ? (size_t)(end - text) : 0, line = 1;
        for (size_t i = 0; i < at && i < size_bytes; i++) line += text[i] == '\n';
        status = malformed(&r, "not JSON at line %zu", line);
        goto done;
    }
    size_t tail = (size_t)(end - text);
    while (tail < size_bytes && strchr(" \t\r\n", text[tail]) && text[tail]) tail++;
    if (tail < size_bytes)
        status = malformed(&r, "more text behind the end of the document");
    else
        status = read_document(&r, root, text, size_bytes, checks_hash);
done:
    json.destroy(root);
    if (status != MOET_OK) {
        moet_table_close(r.table);
        return status;
    }
    *table = r.table;
    return MOET_OK;
}

moet_status moet_table_load(const char *dir, const moet_device *device, moet_table **table)
{
    char path[PATH_MAX];
    char *text;
    size_t size_bytes;
    if (snprintf(path, sizeof path, "%s/table.json", dir) >= (int)sizeof path)
        return moet_fail(MOET_IO, "%s: the path is too long", dir);
    moet_status status = moet_file_read(path, table_limit_bytes, &text, &size_bytes);
    if (status == MOET_NOT_FOUND)
        return moet_fail(status, "%s: no such file; name a folder that `moe-tune emit` wrote", path);
    MOET_TRY(status);
    status = moet_table_parse(text, size_bytes, dir, true, device, table);
    free(text);
    return status;
}
