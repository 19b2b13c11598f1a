/* libnccl_ep.so.0 of fake_nccl.h. A rank posts what it sends in its area; after a barrier all others read there, and
 * after another it may be written again. */
#include "fake_nccl.h"

typedef struct fake_group {
    fake_comm *comm;
    nccl_ep_config config;
    int local; /* experts of a rank */
} fake_group;

typedef struct fake_handle {
    fake_group *group;
    int layout, choices;
    size_t alignment;
    int *tokens;  /* [ranks] */
    int *experts; /* [ranks, max_tokens, choices]: all ranks' choices */
    int *first;   /* [local + 1] slots where an expert's rows begin, expert-major */
} fake_handle;

static float to_float(uint16_t bits)
{
    const uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static uint16_t to_bf16(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if ((word & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(word >> 16 | 0x40);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* ---- what is refused ---- */

/* Expert-major with windows: a row lies in its place for each of its experts before it is combined. */
static bool is_duplicated(const fake_handle *h)
{
    return h->layout == NCCL_EP_EXPERT_MAJOR && h->group->config.zero_copy == NCCL_EP_ZERO_COPY_ON;
}

/* The real one copies its map of slots, of max_tokens rows and as many columns, by 16 bytes, and asserts this. */
static bool is_map_whole(const fake_handle *h)
{
    const unsigned columns = (unsigned)(is_duplicated(h) ? h->choices : h->group->comm->ranks);
    return h->group->config.max_tokens * columns % 4 == 0;
}

static bool is_struct(const nccl_ep_head *head, size_t size)
{
    return head->size == size && head->magic == NCCL_EP_MAGIC;
}

static bool is_tensor(const nccl_ep_tensor *t, int type, unsigned dims, size_t rows, size_t columns)
{
    return t && t->head.size == sizeof *t && t->head.magic == NCCL_EP_TENSOR_MAGIC && t->type == type &&
           t->dims == dims && t->sizes[0] == rows && (dims < 2 || t->sizes[1] == columns) && (t->data || rows == 0);
}

/* Rows that other ranks reach, where the group was made for them. */
static bool is_placed(const fake_group *group, const nccl_ep_tensor *t)
{
    const fake_window *window = t->window;
    if (group->config.zero_copy == NCCL_EP_ZERO_COPY_OFF) return !window;
    return window && (char *)t->data == window->memory + t->window_offset &&
           t->window_offset + t->sizes[0] * t->sizes[1] * 2 <= window->bytes && t->window_offset % 16 == 0;
}

/* ---- groups and handles ---- */

FAKE_EXPORT int ncclEpTakesHostMemory(void) { return 1; }

FAKE_EXPORT int ncclEpGetVersion(int *version)
{
    *version = fake_number("FAKE_NCCL_EP_VERSION", 200);
    return FAKE_OK;
}

FAKE_EXPORT int ncclEpCreateGroup(void **group, void *comm, const nccl_ep_config *c)
{
    fake_comm *of = comm;
    if (!is_struct(&c->head, sizeof *c) || c->version != NCCL_EP_INTERFACE || c->algorithm != NCCL_EP_HIGH_THROUGHPUT ||
        c->experts % (unsigned)of->ranks || c->experts % 4 || c->max_tokens == 0 || c->max_recv_rows < c->max_tokens ||
        c->token_bytes % 16 || c->rdma_bytes || c->queue_pairs || c->sms > 16 || c->has_mask || c->overflow ||
        (c->zero_copy != NCCL_EP_ZERO_COPY_ON && c->zero_copy != NCCL_EP_ZERO_COPY_OFF) || c->choices)
        return FAKE_INVALID;
    fake_group *result = malloc(sizeof *result);
    if (!result) return FAKE_INTERNAL;
    *result = (fake_group){of, *c, (int)c->experts / of->ranks};
    fake_barrier(of);
    *group = result;
    return FAKE_OK;
}

FAKE_EXPORT int ncclEpGroupDestroy(void *group)
{
    free(group);
    return FAKE_OK;
}

FAKE_EXPORT int ncclEpInitHandle(void **handle, void *group, int layout, const nccl_ep_handle_config *config,
                                 int choices, const nccl_ep_tensor *memory)
{
    fake_group *g = group;
    const bool is_power = (g->local & (g->local - 1)) == 0;
    if ((layout != NCCL_EP_FLAT && layout != NCCL_EP_EXPERT_MAJOR) || !is_struct(&config->head, sizeof *config) ||
        memory || choices <= 0 || config->alignment == 0 || (config->alignment & (config->alignment - 1)) ||
        (layout == NCCL_EP_EXPERT_MAJOR && g->config.zero_copy == NCCL_EP_ZERO_COPY_ON && !is_power))
        return FAKE_INVALID;
    fake_handle *h = calloc(1, sizeof *h);
    if (!h) return FAKE_INTERNAL;
    const size_t ranks = (size_t)g->comm->ranks;
    *h = (fake_handle){.group = g,
                       .layout = layout,
                       .choices = choices,
                       .alignment = config->alignment,
                       .tokens = calloc(ranks, sizeof(int)),
                       .experts = calloc(ranks * g->config.max_tokens * (size_t)choices, sizeof(int)),
                       .first = calloc((size_t)g->local + 1, sizeof(int))};
    *handle = h;
    return h->tokens && h->experts && h->first ? FAKE_OK : FAKE_INTERNAL;
}

FAKE_EXPORT int ncclEpHandleDestroy(void *handle)
{
    fake_handle *h = handle;
    free(h->tokens);
    free(h->experts);
    free(h->first);
    free(h);
    return FAKE_OK;
}

/* ---- routing ---- */

static const int *experts_of(const fake_handle *h, int rank, int token)
{
    return h->experts + ((size_t)rank * h->group->config.max_tokens + (size_t)token) * (size_t)h->choices;
}

static bool goes_to(const fake_handle *h, const int *experts, int expert)
{
    for (int i = 0; i < h->choices; i++) {
        if (experts[i] == expert) return true;
    }
    return false;
}

static bool reaches(const fake_handle *h, const int *experts, int rank)
{
    for (int i = 0; i < h->choices; i++) {
        if (experts[i] >= 0 && experts[i] / h->group->local == rank) return true;
    }
    return false;
}

/* Calls `row` for each row that `rank` receives: by source rank, then token. */
typedef void row_function(fake_handle *h, int source, int token, int slot, void *arg);
static int for_rows(fake_handle *h, int rank, row_function *row, void *arg)
{
    int slot = 0;
    for (int s = 0; s < h->group->comm->ranks; s++) {
        for (int t = 0; t < h->tokens[s]; t++) {
            if (!reaches(h, experts_of(h, s, t), rank)) continue;
            if (row) row(h, s, t, slot, arg);
            slot++;
        }
    }
    return slot;
}

static void count_experts(fake_handle *h, int source, int token, int slot, void *arg)
{
    int *counts = arg;
    (void)slot;
    for (int e = 0; e < h->group->local; e++)
        counts[e] += goes_to(h, experts_of(h, source, token), h->group->comm->rank * h->group->local + e);
}

/* In range, and each expert once: the real one checks neither. */
static bool are_ids(const fake_handle *h, const int *ids, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++) {
        for (int i = 0; i < h->choices; i++) {
            const int id = ids[t * (size_t)h->choices + (size_t)i];
            if (id < -1 || id >= (int)h->group->config.experts) return false;
            for (int j = 0; j < i && id >= 0; j++) {
                if (ids[t * (size_t)h->choices + (size_t)j] == id) return false;
            }
        }
    }
    return true;
}

FAKE_EXPORT int ncclEpUpdateHandle(void *handle, const nccl_ep_tensor *ids, const nccl_ep_layout_info *info,
                                   void *stream)
{
    fake_handle *h = handle;
    const fake_group *g = h->group;
    const int ranks = g->comm->ranks, rank = g->comm->rank;
    const size_t k = (size_t)h->choices, row = (size_t)g->config.max_tokens * k, tokens = ids->sizes[0];
    const bool is_major = h->layout == NCCL_EP_EXPERT_MAJOR;
    (void)stream;
    if (!is_tensor(ids, NCCL_INT32, 2, tokens, k) || tokens > g->config.max_tokens ||
        !is_struct(&info->head, sizeof *info) || !is_tensor(info->recv_rows, NCCL_INT32, 1, 1, 0) ||
        (is_major && (!is_tensor(info->expert_counts, NCCL_INT32, 1, (size_t)g->local, 0) ||
                      !is_tensor(info->expert_first, NCCL_INT32, 1, (size_t)g->local, 0))) ||
        !are_ids(h, ids->data, tokens))
        return FAKE_INVALID;
    int *own = (int *)(void *)fake_area(g->comm, rank);
    own[0] = (int)tokens;
    if (tokens) memcpy(own + 1, ids->data, tokens * k * sizeof *own);
    fake_barrier(g->comm);
    for (int r = 0; r < ranks; r++) {
        const int *area = (const int *)(void *)fake_area(g->comm, r);
        h->tokens[r] = area[0];
        memcpy(h->experts + (size_t)r * row, area + 1, (size_t)area[0] * k * sizeof *area);
    }
    fake_barrier(g->comm);
    int total = for_rows(h, rank, NULL, NULL);
    if (is_major) {
        int *counts = info->expert_counts->data, *first = info->expert_first->data, begin = 0;
        memset(counts, 0, (size_t)g->local * sizeof *counts);
        for_rows(h, rank, count_experts, counts);
        for (int e = 0; e < g->local; e++) {
            counts[e] = (int)(((size_t)counts[e] + h->alignment - 1) / h->alignment * h->alignment);
            h->first[e] = first[e] = begin;
            begin += counts[e];
        }
        h->first[g->local] = total = begin;
    }
    *(int *)info->recv_rows->data = total;
    return (unsigned)total <= g->config.max_recv_rows ? FAKE_OK : FAKE_INTERNAL; /* the real one traps */
}

/* ---- dispatch ---- */

typedef struct arrivals {
    size_t hidden, posted_weights; /* bytes into an area where they lie */
    uint16_t *tokens;
    float *weights;
    int64_t *ids;
    int *next; /* [local] expert-major: the next slot of each */
} arrivals;

static void arrive(fake_handle *h, int source, int token, int slot, void *arg)
{
    const arrivals *a = arg;
    const fake_group *g = h->group;
    const int *experts = experts_of(h, source, token);
    const char *area = fake_area(g->comm, source);
    const uint16_t *x = (const uint16_t *)(const void *)area + (size_t)token * a->hidden;
    const float *weights = (const float *)(const void *)(area + a->posted_weights) + (size_t)token * (size_t)h->choices;
    int n = 0;
    if (a->ids) memcpy(a->tokens + (size_t)slot * a->hidden, x, a->hidden * 2);
    for (int e = 0; e < g->local; e++) { /* ascending */
        for (int i = 0; i < h->choices; i++) {
            if (experts[i] != g->comm->rank * g->local + e) continue;
            if (a->ids) {
                a->ids[slot * h->choices + n] = e;
                a->weights[slot * h->choices + n++] = weights[i];
            } else {
                const int at = a->next[e]++;
                memcpy(a->tokens + (size_t)at * a->hidden, x, a->hidden * 2);
                a->weights[at] = weights[i];
            }
        }
    }
}

FAKE_EXPORT int ncclEpDispatch(void *handle, const nccl_ep_dispatch_in *in, const nccl_ep_dispatch_out *out,
                               const nccl_ep_layout_info *info, const void *config, void *stream)
{
    fake_handle *h = handle;
    const fake_group *g = h->group;
    const bool is_major = h->layout == NCCL_EP_EXPERT_MAJOR;
    const size_t T = (size_t)h->tokens[g->comm->rank], H = g->config.token_bytes / 2, k = (size_t)h->choices;
    const size_t slots = g->config.max_recv_rows;
    (void)stream;
    while (fake_number("FAKE_NCCL_DISPATCH_SLEEPS", -1) == g->comm->rank) pause();
    if (config || !is_struct(&in->head, sizeof *in) || !is_struct(&out->head, sizeof *out) ||
        !is_struct(&info->head, sizeof *info) || info->id_kind != NCCL_EP_LOCAL_IDS || in->scales || out->scales ||
        !is_tensor(in->tokens, NCCL_BFLOAT16, 2, T, H) || !is_tensor(in->weights, NCCL_FLOAT32, 2, T, k) ||
        !is_tensor(out->tokens, NCCL_BFLOAT16, 2, slots, H) || !is_placed(g, out->tokens) ||
        !is_tensor(out->weights, NCCL_FLOAT32, is_major ? 1 : 2, slots, k) || (is_major && out->ids) ||
        (!is_major && !is_tensor(out->ids, NCCL_INT64, 2, slots, k)) || (uintptr_t)in->tokens->data % 16 ||
        !is_map_whole(h))
        return FAKE_INVALID;
    arrivals a = {.hidden = H,
                  .posted_weights = ((size_t)g->config.max_tokens * H * 2 + 15) / 16 * 16,
                  .tokens = out->tokens->data,
                  .weights = out->weights->data,
                  .ids = is_major ? NULL : out->ids->data,
                  .next = malloc(((size_t)g->local + 1) * sizeof(int))};
    char *own = fake_area(g->comm, g->comm->rank);
    if (!a.next || a.posted_weights + T * k * 4 > FAKE_AREA) return FAKE_INTERNAL;
    memcpy(a.next, h->first, ((size_t)g->local + 1) * sizeof(int));
    if (T) memcpy(own, in->tokens->data, T * H * 2);
    if (T) memcpy(own + a.posted_weights, in->weights->data, T * k * 4);
    /* Nothing is promised of rows that are none; padding is zeros. */
    const size_t padded = is_major ? (size_t)h->first[g->local] : 0;
    memset(a.tokens, 0xff, slots * H * 2);
    memset(a.tokens, 0, padded * H * 2);
    memset(a.weights, 0xff, slots * (is_major ? 1 : k) * 4);
    memset(a.weights, 0, (is_major ? padded : slots * k) * 4);
    if (a.ids) memset(a.ids, 0xff, slots * k * 8);
    fake_barrier(g->comm);
    for_rows(h, g->comm->rank, arrive, &a);
    fake_barrier(g->comm);
    free(a.next);
    return FAKE_OK;
}

/* ---- combine ---- */

typedef struct results {
    size_t hidden;
    const uint16_t *rows; /* the caller's */
    uint16_t *posted;     /* a row for each received token */
    int *next;
    int *most; /* experts of a token here */
} results;

/* Rows of a token's experts here are added up first. */
static void reduce(fake_handle *h, int source, int token, int slot, void *arg)
{
    const results *r = arg;
    const int *experts = experts_of(h, source, token);
    const int base = h->group->comm->rank * h->group->local;
    for (size_t i = 0; i < r->hidden; i++) {
        float sum = 0;
        for (int e = 0; e < h->group->local; e++) {
            if (goes_to(h, experts, base + e)) sum += to_float(r->rows[(size_t)r->next[e] * r->hidden + i]);
        }
        r->posted[(size_t)slot * r->hidden + i] = to_bf16(sum);
    }
    int here = 0;
    for (int e = 0; e < h->group->local; e++) {
        const bool goes = goes_to(h, experts, base + e);
        r->next[e] += goes;
        here += goes;
    }
    if (here > *r->most) *r->most = here;
}

typedef struct sums {
    int rank, own;
    size_t hidden;
    const uint16_t *rows;
    float *sums;
} sums;

static void add(fake_handle *h, int source, int token, int slot, void *arg)
{
    const sums *s = arg;
    (void)h;
    for (size_t i = 0; i < s->hidden && source == s->own; i++)
        s->sums[(size_t)token * s->hidden + i] += to_float(s->rows[(size_t)slot * s->hidden + i]);
}

FAKE_EXPORT int ncclEpCombine(void *handle, const nccl_ep_combine_in *in, const nccl_ep_combine_out *out,
                              const void *config, void *stream)
{
    fake_handle *h = handle;
    const fake_group *g = h->group;
    const int rank = g->comm->rank, ranks = g->comm->ranks;
    const size_t T = (size_t)h->tokens[rank], H = g->config.token_bytes / 2, slots = g->config.max_recv_rows;
    (void)stream;
    if (config || !is_struct(&in->head, sizeof *in) || !is_struct(&out->head, sizeof *out) || in->weights ||
        in->scales || out->weights || !is_tensor(in->tokens, NCCL_BFLOAT16, 2, slots, H) || !is_placed(g, in->tokens) ||
        !is_tensor(out->tokens, NCCL_BFLOAT16, 2, T, H) || (uintptr_t)out->tokens->data % 16)
        return FAKE_INVALID;
    const int received = for_rows(h, rank, NULL, NULL);
    uint16_t *own = (uint16_t *)(void *)fake_area(g->comm, rank);
    float *total = calloc(T * H + 1, sizeof *total);
    int most = 0;
    results r = {H, in->tokens->data, own, malloc(((size_t)g->local + 1) * sizeof(int)), &most};
    if (!total || !r.next || (size_t)received * H * 2 > FAKE_AREA) return FAKE_INTERNAL;
    memcpy(r.next, h->first, ((size_t)g->local + 1) * sizeof(int));
    if (h->layout == NCCL_EP_FLAT)
        memcpy(own, r.rows, (size_t)received * H * 2);
    else
        for_rows(h, rank, reduce, &r);
    if (is_duplicated(h) && most > 8) return FAKE_INTERNAL; /* the real one has 8 buffers for them, and traps */
    fake_barrier(g->comm);
    for (int q = 0; q < ranks; q++) { /* from +0, ascending */
        sums s = {q, rank, H, (const uint16_t *)(const void *)fake_area(g->comm, q), total};
        for_rows(h, q, add, &s);
    }
    for (size_t i = 0; i < T * H; i++) ((uint16_t *)out->tokens->data)[i] = to_bf16(total[i]);
    fake_barrier(g->comm);
    free(total);
    free(r.next);
    return FAKE_OK;
}
