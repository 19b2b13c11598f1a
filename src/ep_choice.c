#include "ep_choice.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ep_device.h"

/* The options that a table chooses. */
typedef struct field {
    const char *name;
    size_t offset;
    int32_t most; /* of an int32_t, whose 0 is open; 0: a text, whose "auto" is open */
} field;
static const field fields[] = {
    {"transport", offsetof(moet_ep_options, transport), 0},
    {"chunks", offsetof(moet_ep_options, chunks), MOET_EP_MAX_CHUNKS},
    {"comm_sms", offsetof(moet_ep_options, comm_sms), 4096},
};

static const char *text_of(const moet_ep_options *o, const field *f)
{
    const char *text = (const char *)o + f->offset;
    return *text ? text : "auto";
}

static int32_t number_of(const moet_ep_options *o, const field *f)
{
    int32_t value;
    memcpy(&value, (const char *)o + f->offset, sizeof value);
    return value;
}

bool moet_ep_choice_is_open(const moet_ep_options *options)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(fields); i++) {
        const field *f = &fields[i];
        if (f->most ? number_of(options, f) != 0 : strcmp(text_of(options, f), "auto") != 0) return false;
    }
    return true;
}

void moet_ep_choice_format(const moet_ep_options *options, char text[MOET_EP_CHOICE_SIZE])
{
    size_t used = 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(fields) && used < MOET_EP_CHOICE_SIZE; i++) {
        const field *f = &fields[i];
        char *at = text + used;
        const size_t room = MOET_EP_CHOICE_SIZE - used;
        const char *comma = i ? "," : "";
        used += (size_t)(f->most ? snprintf(at, room, "%s%s=%d", comma, f->name, number_of(options, f))
                                 : snprintf(at, room, "%s%s=%s", comma, f->name, text_of(options, f)));
    }
}

/* ---- reading ---- */

static const field *field_find(const char *name, size_t length)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(fields); i++) {
        if (strlen(fields[i].name) == length && strncmp(fields[i].name, name, length) == 0) return &fields[i];
    }
    return NULL;
}

/* The value's text into the field; false: it is none. */
static bool put_value(moet_ep_options *o, const field *f, const char *text, size_t length)
{
    char *to = (char *)o + f->offset;
    if (length == 0 || length >= MOET_EP_NAME_SIZE) return false;
    if (!f->most) {
        snprintf(to, MOET_EP_NAME_SIZE, "%.*s", (int)length, text);
        return true;
    }
    int32_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = 10 * value + (text[i] - '0');
        if (value > f->most) return false;
    }
    memcpy(to, &value, sizeof value);
    return true;
}

moet_status moet_ep_choice_parse(const char *text, moet_ep_options *options)
{
    moet_ep_options result = *options;
    bool is_there[sizeof fields / sizeof fields[0]] = {false};
    for (int32_t i = 0; i < MOET_COUNT_OF(fields); i++) {
        char *to = (char *)&result + fields[i].offset;
        memset(to, 0, fields[i].most ? sizeof(int32_t) : MOET_EP_NAME_SIZE);
    }
    for (const char *at = text;; at++) {
        const size_t size = strcspn(at, ","), name = strcspn(at, "=,");
        const field *f = name < size ? field_find(at, name) : NULL;
        if (!f || is_there[f - fields] || !put_value(&result, f, at + name + 1, size - name - 1))
            return moet_fail(MOET_INVALID, "how the layer is run: '%.*s' of '%.160s' is not known", (int)size, at,
                             text);
        is_there[f - fields] = true;
        at += size;
        if (!*at) break;
    }
    *options = result;
    return MOET_OK;
}

const char *moet_ep_returns_name(moet_ep_returns returns)
{
    static const char *const names[] = {
#define MOET_X(name, text) text,
        MOET_EP_RETURNS_TABLE(MOET_X)
#undef MOET_X
    };
    return names[returns];
}

/* ---- looking up ---- */

/* Activation, bias and probabilities change nothing that crosses, nor do layouts. */
static bool is_alike(const moet_problem *a, const moet_problem *b)
{
    return a->experts == b->experts && a->hidden == b->hidden && a->inter == b->inter && a->numerics == b->numerics;
}

const char *moet_ep_choice_find(const moet_table *table, const moet_problem *local, const moet_ep_options *options,
                                int32_t hosts)
{
    const moet_table_ep_point *best = NULL;
    double nearest = MOET_NEAREST_LIMIT;
    for (int32_t i = 0; table && i < table->ep_count; i++) {
        const moet_table_ep *layer = &table->ep[i];
        if (!is_alike(&layer->problem, local) || layer->ranks != options->ranks || layer->hosts != hosts ||
            layer->choices != options->choices || layer->returns != options->returns)
            continue;
        for (int32_t j = 0; j < layer->point_count; j++) {
            const moet_table_ep_point *point = &layer->points[j];
            const double distance = fabs(log((double)options->max_tokens / (double)point->tokens));
            if (distance > nearest) continue;
            if (best && distance == nearest && point->busiest >= best->busiest) continue;
            best = point;
            nearest = distance;
        }
    }
    return best ? best->choice : NULL;
}

moet_status moet_ep_count_hosts(moet_ep_comm *control, int32_t *hosts)
{
    char own[MOET_EP_HOST_SIZE], *all = calloc((size_t)control->ranks, MOET_EP_HOST_SIZE);
    if (!all) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_ep_host_name(own);
    const moet_status status = moet_ep_comm_allgather(control, own, sizeof own, all);
    int32_t count = 0;
    for (int32_t i = 0; i < control->ranks; i++) {
        const char *name = all + (size_t)i * MOET_EP_HOST_SIZE;
        bool is_new = true;
        for (int32_t j = 0; j < i && *name; j++)
            is_new = is_new && memcmp(name, all + (size_t)j * MOET_EP_HOST_SIZE, MOET_EP_HOST_SIZE) != 0;
        count += is_new;
    }
    free(all);
    if (status == MOET_OK) *hosts = count;
    return status;
}

/* What every rank finds, if it is the same on all. */
static moet_status agree(moet_ep_comm *control, const char own[MOET_EP_CHOICE_SIZE], bool *is_equal)
{
    char *all = calloc((size_t)control->ranks, MOET_EP_CHOICE_SIZE);
    if (!all) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    const moet_status status = moet_ep_comm_allgather(control, own, MOET_EP_CHOICE_SIZE, all);
    *is_equal = status == MOET_OK;
    for (int32_t i = 0; i < control->ranks && status == MOET_OK; i++)
        *is_equal = *is_equal && memcmp(own, all + (size_t)i * MOET_EP_CHOICE_SIZE, MOET_EP_CHOICE_SIZE) == 0;
    free(all);
    return status;
}

moet_status moet_ep_choose(const moet_table *table, const moet_problem *local, moet_ep_comm *control,
                           moet_ep_options *options, bool *is_chosen)
{
    char own[MOET_EP_CHOICE_SIZE] = "";
    int32_t hosts = 0;
    bool is_equal = false;
    *is_chosen = false;
    if (!table || !moet_ep_choice_is_open(options)) return MOET_OK;
    MOET_TRY(moet_ep_count_hosts(control, &hosts));
    const char *found = moet_ep_choice_find(table, local, options, hosts);
    if (found) snprintf(own, sizeof own, "%s", found);
    MOET_TRY(agree(control, own, &is_equal));
    *is_chosen = is_equal && own[0] && moet_ep_choice_parse(own, options) == MOET_OK;
    return MOET_OK;
}
