/* From winners to the text of table.json: sorted and with integers only, so that one database makes one text. */
#include "emit.h"

#include "cost_fit.h"
#include "emit_ep.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct builder {
    moet_store *store;
    const moet_emit_winners *winners;
    cJSON *root, *devices;
    /* where the latest row went; rows come sorted */
    cJSON *device, *problem, *point;
    const char *device_key;                  /* inside the tree */
    char store_key[MOET_STORE_PROBLEM_SIZE]; /* the problem's */
    int64_t workload_id;
    moet_emitted counted;
    bool failed; /* out of memory somewhere */
} builder;

/* ---- members ---- */

static cJSON *add(builder *b, cJSON *object, const char *name, cJSON *value)
{
    if (value && object && cJSON_AddItemToObject(object, name, value)) return value;
    cJSON_Delete(value);
    b->failed = true;
    return NULL;
}

static void add_text(builder *b, cJSON *object, const char *name, const char *text)
{
    add(b, object, name, cJSON_CreateString(text));
}

/* cJSON prints numbers by way of double, with exponents; raw text is exact. */
static void add_integer(builder *b, cJSON *object, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    add(b, object, name, cJSON_CreateRaw(text));
}

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    return text ? text : "";
}

/* ---- devices, problems, points ---- */

/* What a lookup estimates by. */
static void add_rates(builder *b, cJSON *device, const moet_device_rates *known)
{
    static const char *const names[] = {
#define MOET_X(name, text) text,
        MOET_RATE_TABLE(MOET_X)
#undef MOET_X
    };
    cJSON *rates = add(b, device, "rates", cJSON_CreateObject());
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) add_integer(b, rates, names[i], llround(fmax(known->rate[i], 1)));
}

static moet_status open_device(builder *b, const char *key)
{
    if (b->device && strcmp(b->device_key, key) == 0) return MOET_OK;
    moet_device_info info;
    moet_ceilings ceilings;
    moet_store_cost cost;
    MOET_TRY(moet_store_device_info(b->store, key, &info, &ceilings));
    moet_status status = moet_store_get_cost(b->store, key, &cost);
    if (status == MOET_NOT_FOUND) /* nothing was calibrated */
        cost.rates = moet_cost_guess(&info, &ceilings);
    else if (status != MOET_OK)
        return status;
    cJSON *device = cJSON_CreateObject();
    add_text(b, device, "key", key);
    add_text(b, device, "backend", info.backend);
    add_text(b, device, "name", info.name);
    add_integer(b, device, "cc_major", info.cc_major);
    add_integer(b, device, "cc_minor", info.cc_minor);
    add_integer(b, device, "sm_count", info.sm_count);
    add_integer(b, device, "memory_bytes", info.memory_bytes);
    add_integer(b, device, "power_limit_mw", info.power_limit_mw);
    add_text(b, device, "partition", info.partition);
    add_text(b, device, "driver", info.driver);
    add_integer(b, device, "driver_cuda_version", info.driver_cuda_version);
    cJSON *rates = add(b, device, "ceilings", cJSON_CreateObject());
    add_integer(b, rates, "dense_flops_per_s", llround(ceilings.dense_flops_per_s));
    add_integer(b, rates, "copy_bytes_per_s", llround(ceilings.copy_bytes_per_s));
    add_integer(b, rates, "read_bytes_per_s", llround(ceilings.read_bytes_per_s));
    add_rates(b, device, &cost.rates);
    add(b, device, "problems", cJSON_CreateArray());
    add(b, device, "ep", cJSON_CreateArray());
    if (!device || !cJSON_AddItemToArray(b->devices, device)) {
        cJSON_Delete(device);
        b->failed = true;
        return MOET_OK;
    }
    b->device = device;
    b->device_key = text_of(device, "key");
    b->problem = b->point = NULL;
    b->counted.devices++;
    return MOET_OK;
}

/* The list's object whose key these characters are, NULL if there is none. */
static cJSON *find_keyed(const cJSON *list, const char *key, size_t length)
{
    cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *text = text_of(item, "key");
        if (strlen(text) == length && strncmp(text, key, length) == 0) return item;
    }
    return NULL;
}

/* A store's problems that differ in tokens only are one of the table, which is looked up by rows. */
static void open_problem(builder *b, const char *store_key)
{
    if (b->problem && strcmp(b->store_key, store_key) == 0) return;
    char key[MOET_STORE_PROBLEM_SIZE];
    snprintf(b->store_key, sizeof b->store_key, "%s", store_key);
    snprintf(key, sizeof key, "%.*s", (int)moet_store_problem_length(store_key), store_key);
    b->point = NULL;
    b->problem = find_keyed(cJSON_GetObjectItemCaseSensitive(b->device, "problems"), key, strlen(key));
    if (b->problem) return;
    cJSON *problem = cJSON_CreateObject();
    add_text(b, problem, "key", key);
    add(b, problem, "points", cJSON_CreateArray());
    add(b, problem, "defaults", cJSON_CreateArray());
    if (!problem || !cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(b->device, "problems"), problem)) {
        cJSON_Delete(problem);
        b->failed = true;
        return;
    }
    b->problem = problem;
    b->counted.problems++;
}

static void open_point(builder *b, const moet_store_trial_row *trial)
{
    if (b->point && b->workload_id == trial->workload_id) return;
    cJSON *point = cJSON_CreateObject();
    add_text(b, point, "workload", trial->workload_name);
    add_text(b, point, "skew", trial->skew);
    add_integer(b, point, "rows", trial->rows);
    add_integer(b, point, "active", trial->active);
    add_integer(b, point, "max", trial->max);
    const int64_t tokens = moet_store_problem_tokens(trial->problem_key);
    if (tokens > 0)
        add_integer(b, point, "tokens", tokens);
    else
        add(b, point, "tokens", cJSON_CreateNull());
    add(b, point, "counts", cJSON_CreateIntArray(trial->counts, trial->experts));
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++)
        add(b, point, moet_store_kind_name(kind), cJSON_CreateNull());
    if (!point || !cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(b->problem, "points"), point)) {
        cJSON_Delete(point);
        b->failed = true;
        return;
    }
    b->point = point;
    b->workload_id = trial->workload_id;
    b->counted.points++;
}

static void add_kernel(builder *b, cJSON *object, const moet_store_trial_row *trial)
{
    add_text(b, object, "config", trial->config);
    add_integer(b, object, "version", trial->family_version);
    add_text(b, object, "validator", trial->validator);
    cJSON *cubins = add(b, object, "cubins", cJSON_CreateArray());
    for (int32_t i = 0; i < trial->cubin_count; i++) {
        cJSON *cubin = cJSON_CreateObject();
        add_text(b, cubin, "sha256", trial->cubins[i].sha256);
        add_text(b, cubin, "arch", trial->cubins[i].arch);
        if (!cubin || !cubins || !cJSON_AddItemToArray(cubins, cubin)) {
            cJSON_Delete(cubin);
            b->failed = true;
        }
    }
}

/* What the winner's library chose, so that a plan need not ask it again. */
static moet_status add_algorithms(builder *b, cJSON *winner, const moet_store_trial_row *trial)
{
    moet_algorithm list[MOET_MAX_ALGORITHMS];
    int32_t count = 0;
    MOET_TRY(moet_store_get_algorithms(b->store, trial->trial_id, list, &count));
    cJSON *algorithms = add(b, winner, "algorithms", cJSON_CreateArray());
    for (int32_t i = 0; i < count; i++) {
        char hex[2 * MOET_ALGORITHM_BYTES + 1];
        cJSON *algorithm = cJSON_CreateObject();
        for (int32_t j = 0; j < MOET_ALGORITHM_BYTES; j++) snprintf(hex + 2 * j, 3, "%02x", list[i].bytes[j]);
        add_integer(b, algorithm, "rows", list[i].rows);
        add_text(b, algorithm, "text", list[i].text);
        add_text(b, algorithm, "bytes", hex);
        if (!algorithm || !algorithms || !cJSON_AddItemToArray(algorithms, algorithm)) {
            cJSON_Delete(algorithm);
            b->failed = true;
        }
    }
    return MOET_OK;
}

/* What a lookup between the points goes by. */
static void add_others(builder *b, cJSON *winner, const moet_emit_choice *choice)
{
    cJSON *others = add(b, winner, "others", cJSON_CreateArray());
    for (int32_t i = 0; i < choice->other_count; i++) {
        cJSON *other = cJSON_CreateObject();
        add_text(b, other, "config", choice->others[i].config);
        add_integer(b, other, "time_ns", choice->others[i].time_ns);
        if (!other || !others || !cJSON_AddItemToArray(others, other)) {
            cJSON_Delete(other);
            b->failed = true;
        }
    }
}

static moet_status out_of_memory(void) { return moet_fail(MOET_NO_MEMORY, "table: out of memory"); }

static moet_status add_winner(builder *b, const moet_store_trial_row *trial, const moet_emit_choice *choice)
{
    MOET_TRY(open_device(b, trial->device_key));
    if (!b->failed) open_problem(b, trial->problem_key);
    if (!b->failed) open_point(b, trial);
    if (b->failed) return out_of_memory();
    cJSON *winner = cJSON_CreateObject();
    add_kernel(b, winner, trial);
    moet_status status = add_algorithms(b, winner, trial);
    if (status != MOET_OK) {
        cJSON_Delete(winner);
        return status;
    }
    add(b, winner, "device_counts", cJSON_CreateBool(trial->device_counts));
    add_integer(b, winner, "time_ns", trial->median_ns);
    add_integer(b, winner, "noise_ns", trial->noise_ns);
    if (choice->default_ns > 0)
        add_integer(b, winner, "default_time_ns", choice->default_ns);
    else
        add(b, winner, "default_time_ns", cJSON_CreateNull());
    add_others(b, winner, choice);
    add(b, winner, "runner_up", choice->runner_up ? cJSON_CreateString(choice->runner_up) : cJSON_CreateNull());
    if (!winner || !cJSON_ReplaceItemInObjectCaseSensitive(b->point, moet_store_kind_name(choice->kind), winner)) {
        cJSON_Delete(winner);
        b->failed = true;
    }
    b->counted.entries++;
    return b->failed ? out_of_memory() : MOET_OK;
}

static moet_status add_chosen(void *context, const moet_store_trial_row *trial)
{
    builder *b = context;
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++) {
        const moet_emit_choice *choice = moet_emit_winners_get(b->winners, trial->trial_id, kind);
        if (choice) MOET_TRY(add_winner(b, trial, choice));
    }
    return MOET_OK;
}

/* ---- defaults ---- */

static int compare_kernels(const cJSON *a, const cJSON *b)
{
    int order = strcmp(text_of(a, "config"), text_of(b, "config"));
    if (order) return order;
    /* raw members: their text is the value's */
    int64_t va = strtoll(cJSON_GetObjectItemCaseSensitive(a, "version")->valuestring, NULL, 10);
    int64_t vb = strtoll(cJSON_GetObjectItemCaseSensitive(b, "version")->valuestring, NULL, 10);
    if (va != vb) return va < vb ? -1 : 1;
    return strcmp(text_of(a, "validator"), text_of(b, "validator"));
}

/* By the hashes in their order. */
static int compare_cubins(const cJSON *a, const cJSON *b)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(a, "cubins")->child;
    const cJSON *y = cJSON_GetObjectItemCaseSensitive(b, "cubins")->child;
    int order = 0;
    for (; !order && x && y; x = x->next, y = y->next) order = strcmp(text_of(x, "sha256"), text_of(y, "sha256"));
    return order ? order : (x != NULL) - (y != NULL);
}

static int compare_items(const void *a, const void *b)
{
    const cJSON *x = *(cJSON *const *)a, *y = *(cJSON *const *)b;
    int order = compare_kernels(x, y);
    return order ? order : compare_cubins(x, y);
}

/* Sorts a list of kernels and drops repeats. Of two that are compiled for one config (by two compilers) the one with
 * the lower hashes stays. */
static moet_status sort_kernels(cJSON *list)
{
    int count = cJSON_GetArraySize(list);
    cJSON **items = malloc(((size_t)count + 1) * sizeof(cJSON *)), *last = NULL;
    if (!items) return out_of_memory();
    for (int i = 0; i < count; i++) items[i] = cJSON_DetachItemFromArray(list, 0);
    qsort(items, (size_t)count, sizeof(cJSON *), compare_items);
    for (int i = 0; i < count; i++) {
        if (last && compare_kernels(last, items[i]) == 0)
            cJSON_Delete(items[i]);
        else
            cJSON_AddItemToArray(list, last = items[i]); /* fails for NULL arguments only */
    }
    free(items);
    return MOET_OK;
}

/* ---- joined points: of problems that differ in tokens only ---- */

typedef struct placed_point {
    cJSON *item;
    int32_t place; /* in the order of the store */
} placed_point;

static int compare_numbers(const cJSON *a, const cJSON *b)
{
    const double x = a->valuestring ? strtod(a->valuestring, NULL) : a->valuedouble; /* raw, or of an array */
    const double y = b->valuestring ? strtod(b->valuestring, NULL) : b->valuedouble;
    return (x > y) - (x < y);
}

/* By rows, busiest expert, counts; 0: the same counts. */
static int compare_points(const cJSON *a, const cJSON *b)
{
    static const char *const members[] = {"rows", "max"};
    int order = 0;
    for (int32_t i = 0; !order && i < MOET_COUNT_OF(members); i++)
        order = compare_numbers(cJSON_GetObjectItemCaseSensitive(a, members[i]),
                                cJSON_GetObjectItemCaseSensitive(b, members[i]));
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(a, "counts")->child;
    const cJSON *y = cJSON_GetObjectItemCaseSensitive(b, "counts")->child;
    for (; !order && x && y; x = x->next, y = y->next) order = compare_numbers(x, y);
    return order;
}

static int compare_placed(const void *a, const void *b)
{
    const placed_point *x = a, *y = b;
    int order = compare_points(x->item, y->item);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

/* Sorts points, and of equal counts keeps the first: the one with as many tokens as rows, if there is one. */
static moet_status join_points(builder *b, cJSON *points)
{
    const int count = cJSON_GetArraySize(points);
    placed_point *placed = malloc(((size_t)count + 1) * sizeof *placed);
    cJSON *last = NULL;
    if (!placed) return out_of_memory();
    for (int i = 0; i < count; i++) placed[i] = (placed_point){cJSON_DetachItemFromArray(points, 0), i};
    qsort(placed, (size_t)count, sizeof *placed, compare_placed);
    for (int i = 0; i < count; i++) {
        cJSON *point = placed[i].item;
        if (!last || compare_points(last, point) != 0) {
            cJSON_AddItemToArray(points, last = point); /* fails for NULL arguments only */
            continue;
        }
        for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++)
            b->counted.entries -= !cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(point, moet_store_kind_name(kind)));
        b->counted.points--;
        cJSON_Delete(point);
    }
    free(placed);
    return MOET_OK;
}

static moet_status join_all_points(builder *b)
{
    const cJSON *device, *problem;
    cJSON_ArrayForEach(device, b->devices)
    {
        cJSON_ArrayForEach(problem, cJSON_GetObjectItemCaseSensitive(device, "problems"))
        {
            if (strncmp(text_of(problem, "key"), "op=ffn,", 7) == 0)
                MOET_TRY(join_points(b, cJSON_GetObjectItemCaseSensitive(problem, "points")));
        }
    }
    return MOET_OK;
}

static moet_status sort_defaults(const builder *b)
{
    const cJSON *device, *problem;
    cJSON_ArrayForEach(device, b->devices)
    {
        cJSON_ArrayForEach(problem, cJSON_GetObjectItemCaseSensitive(device, "problems"))
            MOET_TRY(sort_kernels(cJSON_GetObjectItemCaseSensitive(problem, "defaults")));
    }
    return MOET_OK;
}

static moet_status add_default(void *context, const moet_store_trial_row *trial)
{
    builder *b = context;
    if (!trial->is_default || !trial->is_current) return MOET_OK;
    if (!b->device || strcmp(b->device_key, trial->device_key) != 0) {
        b->device = find_keyed(b->devices, trial->device_key, strlen(trial->device_key));
        b->problem = NULL;
        if (!b->device) return MOET_OK;
        b->device_key = text_of(b->device, "key");
    }
    if (!b->problem || strcmp(b->store_key, trial->problem_key) != 0) {
        b->problem = find_keyed(cJSON_GetObjectItemCaseSensitive(b->device, "problems"), trial->problem_key,
                                moet_store_problem_length(trial->problem_key));
        if (!b->problem) return MOET_OK;
        snprintf(b->store_key, sizeof b->store_key, "%s", trial->problem_key);
    }
    cJSON *kernel = cJSON_CreateObject();
    add_kernel(b, kernel, trial);
    if (b->failed || !cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(b->problem, "defaults"), kernel)) {
        cJSON_Delete(kernel);
        return out_of_memory();
    }
    return MOET_OK;
}

/* ---- the expert-parallel layer ---- */

static moet_status add_ep_winner(void *context, const moet_store_ep_row *row)
{
    builder *b = context;
    if (!row->is_winner) return MOET_OK;
    b->device = find_keyed(b->devices, row->device_key, strlen(row->device_key));
    if (!b->device) MOET_TRY(open_device(b, row->device_key));
    b->failed = b->failed || !moet_emit_ep_add(b->device, row);
    b->counted.ep_points++;
    return b->failed ? out_of_memory() : MOET_OK;
}

/* A device without winners of GEMMs came behind the others. */
static void sort_devices(cJSON *devices)
{
    for (int i = 1; i < cJSON_GetArraySize(devices); i++) {
        cJSON *device = cJSON_DetachItemFromArray(devices, i);
        int at = 0;
        while (at < i && strcmp(text_of(cJSON_GetArrayItem(devices, at), "key"), text_of(device, "key")) < 0) at++;
        cJSON_InsertItemInArray(devices, at, device); /* fails for NULL arguments only */
    }
}

/* ---- text and hash ---- */

static const char empty_hash[] = "\"hash\":\t\"\"";

/* Prints the tree with this parent ("" none), computes its hash and puts it in. *text is malloc'd. */
static moet_status print_table(cJSON *root, const char *parent, char hash[MOET_SHA256_TEXT_SIZE], char **text)
{
    cJSON *value = *parent ? cJSON_CreateString(parent) : cJSON_CreateNull();
    if (!value || !cJSON_ReplaceItemInObjectCaseSensitive(root, "parent", value)) {
        cJSON_Delete(value);
        return out_of_memory();
    }
    char *blank = cJSON_Print(root), *result = NULL;
    moet_status status = MOET_OK;
    size_t length = blank ? strlen(blank) : 0;
    char *grown = blank ? realloc(blank, length + 2) : NULL;
    if (!grown) {
        status = out_of_memory();
        goto done;
    }
    blank = grown;
    memcpy(blank + length, "\n", 2);
    moet_sha256_text(blank, length + 1, hash);
    int before = (int)(strstr(blank, empty_hash) + sizeof empty_hash - 2 - blank);
    if (asprintf(&result, "%.*s%s%s", before, blank, hash, blank + before) < 0) {
        status = out_of_memory();
        goto done;
    }
    *text = result;
done:
    free(blank);
    return status;
}

/* ---- emit ---- */

typedef struct hash_list {
    const char **texts; /* inside the tree */
    int32_t count, capacity;
} hash_list;

static bool collect_cubins(const cJSON *item, hash_list *list)
{
    for (const cJSON *child = item->child; child; child = child->next) {
        if (child->child && !collect_cubins(child, list)) return false;
        if (!child->string || strcmp(child->string, "sha256") != 0 || !cJSON_IsString(child)) continue;
        if (list->count == list->capacity) {
            int32_t capacity = list->capacity ? 2 * list->capacity : 64;
            const char **grown = realloc(list->texts, (size_t)capacity * sizeof *grown);
            if (!grown) return false;
            list->texts = grown;
            list->capacity = capacity;
        }
        list->texts[list->count++] = child->valuestring;
    }
    return true;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort_unique(hash_list *list)
{
    int32_t kept = 0;
    if (list->count) qsort(list->texts, (size_t)list->count, sizeof *list->texts, compare_texts);
    for (int32_t i = 0; i < list->count; i++) {
        if (i == 0 || strcmp(list->texts[i], list->texts[kept - 1]) != 0) list->texts[kept++] = list->texts[i];
    }
    list->count = kept;
}

static moet_status build(builder *b, const char *device)
{
    b->root = cJSON_CreateObject();
    add_text(b, b->root, "format", "moe-tune table");
    add_integer(b, b->root, "version", MOET_TABLE_FORMAT_VERSION);
    add_text(b, b->root, "hash", "");
    add(b, b->root, "parent", cJSON_CreateNull());
    b->devices = add(b, b->root, "devices", cJSON_CreateArray());
    if (b->failed) return out_of_memory();
    moet_store_filter filter = {.device_key = device, .ok_only = true};
    MOET_TRY(moet_store_each_trial(b->store, &filter, add_chosen, b));
    b->device = b->problem = NULL;
    MOET_TRY(moet_store_each_trial(b->store, &filter, add_default, b));
    MOET_TRY(join_all_points(b));
    MOET_TRY(sort_defaults(b));
    MOET_TRY(moet_store_each_ep(b->store, device, add_ep_winner, b));
    sort_devices(b->devices);
    return MOET_OK;
}

/* Of the database as it stands: a sweep may write while it is read. */
static moet_status emit(moet_store *store, const char *dir, const moet_emit_options *options, moet_emitted *emitted)
{
    moet_emit_winners winners = {0};
    moet_emit_bits bits = {0};
    builder b = {.store = store, .winners = &winners};
    const char *device = options->device;
    moet_emit_folder folder = {0};
    hash_list cubins = {0};
    char *text = NULL;
    moet_status status = moet_emit_folder_look(dir, &folder);
    if (status != MOET_OK) return status;
    if ((options->bits && (status = moet_emit_bits_find(store, device, options->bits, &bits)) != MOET_OK) ||
        (status = moet_emit_winners_find(store, device, &options->skews, options->bits ? &bits : NULL,
                                         options->all_winners, &winners)) != MOET_OK ||
        (status = build(&b, device)) != MOET_OK)
        goto done;
    if (b.counted.entries + b.counted.ep_points == 0) {
        status =
            winners.bits_cost.left_out > 0
                ? moet_fail(MOET_NOT_FOUND,
                            "no trial has the bits of %s, nor has it trials of its own to tell by; moe-tune show "
                            "--trials lists them",
                            options->bits)
            : options->skews.count > 0
                ? moet_fail(MOET_NOT_FOUND, "the database has no winner of these skews; moe-tune show --format csv "
                                            "lists its workloads")
            : device ? moet_fail(MOET_NOT_FOUND,
                                 "the database has no winner of a device whose key holds '%s'; moe-tune "
                                 "show --format csv lists its devices",
                                 device)
                     : moet_fail(MOET_NOT_FOUND,
                                 "the database has no winner to emit; run moe-tune sweep first (moe-tune show "
                                 "--trials says what was tried)");
        goto done;
    }
    if (!collect_cubins(b.root, &cubins)) {
        status = out_of_memory();
        goto done;
    }
    sort_unique(&cubins);
    b.counted.cubins = cubins.count;
    b.counted.configs = winners.configs;
    b.counted.winner_configs = winners.winner_configs;
    b.counted.mean_regret = winners.mean_regret;
    b.counted.most_regret = winners.most_regret;
    b.counted.bits_cost = winners.bits_cost;
    b.counted.suspect_defaults = winners.suspect_defaults;
    if ((status = print_table(b.root, folder.parent, b.counted.hash, &text)) != MOET_OK) goto done;
    b.counted.changed = strcmp(b.counted.hash, folder.hash) != 0;
    if (b.counted.changed) {
        free(text);
        text = NULL;
        if ((status = print_table(b.root, folder.hash, b.counted.hash, &text)) != MOET_OK) goto done;
    }
    status = moet_emit_folder_write(store, dir, folder.hash, b.counted.changed ? text : NULL, cubins.texts, cubins.count);
    if (status == MOET_OK) *emitted = b.counted;
done:
    moet_emit_winners_release(&winners);
    moet_emit_bits_release(&bits);
    free(text);
    free(cubins.texts);
    cJSON_Delete(b.root);
    return status;
}

moet_status moet_emit(moet_store *store, const char *dir, const moet_emit_options *options, moet_emitted *emitted)
{
    MOET_TRY(moet_store_begin_reading(store));
    moet_status status = emit(store, dir, options, emitted);
    moet_store_end_reading(store);
    return status;
}
