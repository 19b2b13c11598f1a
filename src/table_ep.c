/* A device's member "ep": how the expert-parallel layer is run best. Tables before it have none. */
#include <stdlib.h>
#include <string.h>

#include "ep_choice.h"
#include "json.h"
#include "table.h"

enum { MOST_LAYERS = 4096, MOST_POINTS = 4096 };

/* false, with a reason, like all below. */
static bool read_number(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t *value, char *why)
{
    const cJSON *item = moet_json_find(object, name, cJSON_Number);
    if (!item) return moet_refuse(why, "\"%s\" must be a number", name);
    const double number = item->valuedouble;
    if (!(number >= (double)low && number <= (double)high) || number != (double)(int64_t)number)
        return moet_refuse(why, "\"%s\" must be an integer, %lld to %lld", name, (long long)low, (long long)high);
    *value = (int64_t)number;
    return true;
}

static const char *read_text(const cJSON *object, const char *name, size_t limit, char *why)
{
    const cJSON *item = moet_json_find(object, name, cJSON_String);
    if (item && strlen(item->valuestring) <= limit) return item->valuestring;
    moet_refuse(why, "\"%s\" must be a text of at most %zu bytes", name, limit);
    return NULL;
}

/* *is_known false: a choice that a newer build may have written. */
static bool read_point(const cJSON *object, const moet_table_ep *layer, moet_table_ep_point *point, bool *is_known,
                       char *why)
{
    moet_ep_options options = {0};
    if (!read_number(object, "tokens", 1, MOET_MAX_ROWS / layer->ranks, &point->tokens, why)) return false;
    const int64_t rows = point->tokens * layer->ranks * layer->choices;
    if (!read_number(object, "busiest", 1, rows, &point->busiest, why)) return false;
    if (point->busiest * layer->ranks < rows)
        return moet_refuse(why, "\"busiest\" is %lld, less than its share of %lld rows on %d ranks",
                           (long long)point->busiest, (long long)rows, layer->ranks);
    const char *choice = read_text(object, "choice", MOET_EP_CHOICE_SIZE - 1, why);
    if (!choice) return false;
    *is_known = moet_ep_choice_parse(choice, &options) == MOET_OK;
    strcpy(point->choice, choice);
    return true;
}

/* Of a problem that a newer build may have written the layer stays without ranks, and answers nobody. */
static bool read_key(const cJSON *object, moet_table_ep *layer, char *why)
{
    int64_t ranks = 0, hosts = 0, choices = 0;
    const char *problem = read_text(object, "problem", MOET_KEY_SIZE - 1, why), *returns;
    if (!problem) return false;
    const moet_status parsed = moet_problem_parse(problem, &layer->problem);
    if (parsed == MOET_UNSUPPORTED) return true;
    if (parsed != MOET_OK) return moet_refuse(why, "%s", moet_last_error());
    if (layer->problem.op != MOET_OP_FFN) return moet_refuse(why, "\"problem\" must be of op ffn");
    if (!read_number(object, "ranks", 1, MOET_EP_MAX_RANKS, &ranks, why) ||
        !read_number(object, "hosts", 1, ranks, &hosts, why) ||
        !read_number(object, "choices", 1, MOET_MAX_CHOICES, &choices, why) ||
        !(returns = read_text(object, "returns", 15, why)))
        return false;
    layer->ranks = (int32_t)ranks;
    layer->hosts = (int32_t)hosts;
    layer->choices = (int32_t)choices;
    for (int32_t i = 0; i < MOET_EP_RETURNS_COUNT; i++) {
        if (strcmp(returns, moet_ep_returns_name((moet_ep_returns)i)) != 0) continue;
        layer->returns = (moet_ep_returns)i;
        return true;
    }
    return moet_refuse(why, "\"returns\" must be rows or sums");
}

static int32_t count_of(const cJSON *list)
{
    int32_t count = 0;
    for (const cJSON *item = list->child; item; item = item->next) count++;
    return count;
}

static moet_status read_points(const cJSON *object, moet_table_ep *layer, char *why)
{
    const cJSON *list = moet_json_find(object, "points", cJSON_Array);
    const int32_t count = list ? count_of(list) : 0;
    if (!list || count > MOST_POINTS) {
        moet_refuse(why, "\"points\" must be a list of at most %d", MOST_POINTS);
        return MOET_MALFORMED;
    }
    layer->points = calloc((size_t)count + 1, sizeof *layer->points);
    if (!layer->points) return moet_fail(MOET_NO_MEMORY, "table: out of memory");
    int32_t n = 0;
    for (const cJSON *item = list->child; item; item = item->next, n++) {
        char what[MOET_REASON_SIZE];
        bool is_known = false;
        if (!read_point(item, layer, &layer->points[layer->point_count], &is_known, what)) {
            moet_refuse(why, "points[%d]: %.200s", n, what);
            return MOET_MALFORMED;
        }
        layer->point_count += is_known;
    }
    return MOET_OK;
}

void moet_table_ep_release(moet_table *table)
{
    for (int32_t i = 0; i < table->ep_count; i++) free(table->ep[i].points);
    free(table->ep);
    table->ep = NULL;
    table->ep_count = 0;
}

moet_status moet_table_read_ep(const cJSON *device, moet_table *table, char *why)
{
    const cJSON *layers = moet_json_find(device, "ep", ~0);
    if (!layers) return MOET_OK;
    const int32_t found = layers->type & cJSON_Array ? count_of(layers) : MOST_LAYERS + 1;
    if (found > MOST_LAYERS) {
        moet_refuse(why, "\"ep\" must be a list of at most %d", MOST_LAYERS);
        return MOET_MALFORMED;
    }
    moet_table read = {.ep = calloc((size_t)found + 1, sizeof *read.ep), .ep_count = found};
    if (!read.ep) return moet_fail(MOET_NO_MEMORY, "table: out of memory");
    moet_status status = MOET_OK;
    int32_t n = 0;
    for (const cJSON *item = layers->child; item && status == MOET_OK; item = item->next, n++) {
        char what[MOET_REASON_SIZE] = "";
        status = !read_key(item, &read.ep[n], what) ? MOET_MALFORMED
                 : read.ep[n].ranks == 0            ? MOET_OK
                                                    : read_points(item, &read.ep[n], what);
        if (status == MOET_MALFORMED) moet_refuse(why, "ep[%d]: %.200s", n, what);
    }
    if (status != MOET_OK || !table || table->ep) { /* a device stands once */
        moet_table_ep_release(&read);
        return status;
    }
    table->ep = read.ep;
    table->ep_count = read.ep_count;
    return MOET_OK;
}
