/* ep: the expert-parallel layer (moet_ep.h): meets the other ranks, holds the buffers of the chunks, and runs a
 * transport's dispatch and combine around moet_ffn. */
#include "ep.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TIMEOUT_MS = 30000, DEFAULT_COMM_SMS = 16 };

static const moet_ep_transport *const transports[] = {&moet_ep_transport_lsa,       &moet_ep_transport_lsa_joint,
                                                      &moet_ep_transport_allgather, &moet_ep_transport_exchange,
                                                      &moet_ep_transport_bound,     &moet_ep_transport_nccl_ep};

void moet_ep_options_init(moet_ep_options *options, moet_numerics numerics)
{
    *options =
        (moet_ep_options){.ranks = 1,
                          .choices = 8,
                          .returns = numerics == MOET_NUMERICS_FAST ? MOET_EP_RETURNS_SUMS : MOET_EP_RETURNS_ROWS};
}

/* ---- options ---- */

typedef struct number_rule {
    const char *name;
    int64_t value, low, high;
} number_rule;

static bool is_auto(const char *text) { return text[0] == '\0' || strcmp(text, "auto") == 0; }

/* NULL: none of this name, or auto. Parameters may follow a name whose transport checks them. */
static const moet_ep_transport *transport_find(const char *name)
{
    const size_t length = strcspn(name, ":");
    for (int32_t i = 0; i < MOET_COUNT_OF(transports); i++) {
        const moet_ep_transport *t = transports[i];
        if (strlen(t->name) == length && strncmp(t->name, name, length) == 0 && (!name[length] || t->check)) return t;
    }
    return NULL;
}

static moet_status validate(const moet_problem *problem, const moet_ep_options *o)
{
    MOET_TRY(moet_problem_validate(problem));
    if (problem->op != MOET_OP_FFN) return moet_fail(MOET_INVALID, "moet_ep: the problem must be of op ffn");
    const number_rule rules[] = {
        {"ranks", o->ranks, 1, MOET_EP_MAX_RANKS},
        {"rank", o->rank, 0, o->ranks - 1},
        {"returns", o->returns, 0, MOET_EP_RETURNS_COUNT - 1},
        {"choices", o->choices, 1, MOET_MAX_CHOICES},
        {"chunks", o->chunks, 0, MOET_EP_MAX_CHUNKS},
        {"max_tokens", o->max_tokens, 1, MOET_MAX_ROWS / (o->ranks > 0 ? o->ranks : 1)},
        {"comm_sms", o->comm_sms, 0, 4096},
        {"timeout_ms", o->timeout_ms, 0, 24 * 3600 * 1000},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(rules); i++) {
        const number_rule *r = &rules[i];
        if (r->value < r->low || r->value > r->high)
            return moet_fail(MOET_INVALID, "moet_ep: %s is %lld, must be %lld to %lld", r->name, (long long)r->value,
                             (long long)r->low, (long long)r->high);
    }
    if (problem->experts % o->ranks)
        return moet_fail(MOET_INVALID, "moet_ep: %d experts cannot be spread over %d ranks evenly", problem->experts,
                         o->ranks);
    if (problem->hidden % 8 || problem->inter % 8)
        return moet_fail(MOET_INVALID, "moet_ep: hidden is %d and inter %d, must be multiples of 8", problem->hidden,
                         problem->inter);
    if (o->returns == MOET_EP_RETURNS_ROWS && problem->combine == MOET_COMBINE_PADDLE)
        return moet_fail(MOET_INVALID, "moet_ep: combine paddle asks what is local to a rank: choose returns sums");
    if (!is_auto(o->transport) && !transport_find(o->transport))
        return moet_fail(MOET_INVALID,
                         "moet_ep: no transport '%.32s': auto, lsa, lsa_joint, allgather, exchange, bound or nccl_ep",
                         o->transport);
    if (!is_auto(o->net) && strcmp(o->net, "socket") != 0 && strcmp(o->net, "mpi") != 0)
        return moet_fail(MOET_INVALID, "moet_ep: no net '%.32s': auto, socket or mpi", o->net);
    const moet_ep_transport *named = transport_find(o->transport);
    return named && named->check ? named->check(problem, o) : MOET_OK;
}

static bool has_cuda(const moet_ep *ep) { return strcmp(ep->device->backend->name, "cuda") == 0; }

static void resolve(moet_ep *ep)
{
    moet_ep_options *o = &ep->options;
    if (o->timeout_ms == 0) o->timeout_ms = DEFAULT_TIMEOUT_MS;
    ep->local = ep->problem;
    ep->local.experts = ep->problem.experts / o->ranks;
}

static void resolve_chunks(moet_ep *ep)
{
    moet_ep_options *o = &ep->options;
    if (o->chunks == 0) o->chunks = 1;
    if (o->chunks > o->max_tokens) o->chunks = (int32_t)o->max_tokens;
    ep->width = o->choices < ep->local.experts ? o->choices : ep->local.experts;
    ep->chunk_count = o->chunks;
    ep->chunk_tokens = (o->max_tokens + o->chunks - 1) / o->chunks;
    ep->recv_rows = ep->chunk_tokens * o->ranks;
    ep->expected_rows = ep->chunk_tokens * o->choices;
    const moet_ep_transport *transport = is_auto(o->transport) ? NULL : transport_find(o->transport);
    if (transport && transport->size) transport->size(ep);
    if (has_cuda(ep) && ep->chunk_count > 1 && o->comm_sms == 0) o->comm_sms = DEFAULT_COMM_SMS;
    ep->max_rows = ep->recv_rows * ep->width;
}

/* ---- agreement ---- */

enum { FACTS_SIZE = 1536 };

/* "name=value" lines. */
__attribute__((format(printf, 3, 4))) static void fact(char *facts, const char *name, const char *format, ...)
{
    const size_t used = strlen(facts);
    size_t at = used + (size_t)snprintf(facts + used, FACTS_SIZE - used, "%s=", name);
    va_list args;
    va_start(args, format);
    if (at < FACTS_SIZE) at += (size_t)vsnprintf(facts + at, FACTS_SIZE - at, format, args);
    va_end(args);
    if (at < FACTS_SIZE - 1) snprintf(facts + at, FACTS_SIZE - at, "\n");
}

/* Every rank compares all with rank 0's and comes to the same end. */
static moet_status agree(moet_ep *ep, const char *facts)
{
    const int32_t N = ep->options.ranks;
    char *all = calloc((size_t)N, FACTS_SIZE);
    if (!all) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_status status = moet_ep_comm_allgather(ep->control, facts, FACTS_SIZE, all);
    for (int32_t i = 1; i < N && status == MOET_OK; i++) {
        const char *a = all, *b = all + (size_t)i * FACTS_SIZE;
        all[FACTS_SIZE - 1] = all[(size_t)(i + 1) * FACTS_SIZE - 1] = '\0';
        while (*a && *b) {
            const int a_size = (int)strcspn(a, "\n"), b_size = (int)strcspn(b, "\n");
            if (a_size != b_size || memcmp(a, b, (size_t)a_size) != 0) break;
            a += a_size + (a[a_size] != '\0');
            b += b_size + (b[b_size] != '\0');
        }
        if (*a || *b)
            status = moet_fail(MOET_MISMATCH, "ranks differ: rank 0 has %.*s, rank %d has %.*s", (int)strcspn(a, "\n"),
                               a, i, (int)strcspn(b, "\n"), b);
    }
    free(all);
    return status;
}

static moet_status agree_on_options(moet_ep *ep)
{
    const moet_ep_options *o = &ep->options;
    char facts[FACTS_SIZE] = "", key[MOET_KEY_SIZE];
    moet_problem_format(&ep->problem, key);
    fact(facts, "version", "%s", MOET_VERSION_TEXT);
    fact(facts, "problem", "%s", key); /* with the numerics */
    fact(facts, "max_tokens", "%lld", (long long)o->max_tokens);
    fact(facts, "choices", "%d", o->choices);
    fact(facts, "returns", "%s", moet_ep_returns_name(o->returns));
    fact(facts, "transport", "%s", is_auto(o->transport) ? "auto" : o->transport);
    fact(facts, "chunks", "%d", o->chunks);
    fact(facts, "comm_sms", "%d", o->comm_sms);
    fact(facts, "device", "%s %d.%d", ep->device->backend->name, ep->device->info.cc_major, ep->device->info.cc_minor);
    fact(facts, "table", "%s", ep->handle->table ? ep->handle->table->hash : "none");
    return agree(ep, facts);
}

/* What the caller leaves open is the table's to say. */
static moet_status choose(moet_ep *ep)
{
    moet_ep_options o = ep->options;
    MOET_TRY(moet_ep_choose(ep->handle->table, &ep->local, ep->control, &o, &ep->is_chosen));
    ep->is_chosen = ep->is_chosen && validate(&ep->problem, &o) == MOET_OK;
    if (ep->is_chosen) ep->options = o;
    return MOET_OK;
}

/* Under fast one configuration a problem; under train each gives the same bits. Also tells that all ranks are ready. */
static moet_status agree_on_config(moet_ep *ep)
{
    char facts[FACTS_SIZE] = "";
    moet_choice choice;
    MOET_TRY(moet_plan_query(ep->plan, NULL, &choice));
    fact(facts, "config", "%s", ep->problem.numerics == MOET_NUMERICS_FAST ? choice.config : "any");
    return agree(ep, facts);
}

/* ---- chunks ---- */

moet_status moet_ep_alloc(moet_ep *ep, size_t bytes, void **memory)
{
    MOET_TRY(ep->device->backend->alloc(ep->device, bytes, memory));
    ep->memory_bytes += bytes;
    return MOET_OK;
}

moet_status moet_ep_point(moet_ep *ep, moet_ep_chunk *chunk, void *const *to, const void *const *from,
                          const void *const *places)
{
    const size_t bytes = (size_t)ep->options.ranks * sizeof *to;
    const moet_backend *backend = ep->device->backend;
    MOET_TRY(backend->upload(ep->device, (void *)chunk->pass.to, to, bytes));
    MOET_TRY(backend->upload(ep->device, (void *)chunk->pass.from, from, bytes));
    return places ? backend->upload(ep->device, (void *)chunk->pass.places, places, bytes) : MOET_OK;
}

moet_status moet_ep_point_windows(moet_ep *ep, const moet_ep_chunk *chunk, size_t start, void *to)
{
    const size_t N = (size_t)ep->options.ranks;
    void **pointers = calloc(N, sizeof *pointers);
    if (!pointers) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    for (size_t i = 0; i < N; i++) pointers[i] = (char *)chunk->windows[i] + start;
    const moet_status status = ep->device->backend->upload(ep->device, to, pointers, N * sizeof *pointers);
    free(pointers);
    return status;
}

void moet_ep_close_windows(moet_ep *ep, moet_ep_chunk *chunk, size_t bytes)
{
    const int32_t rank = ep->options.rank, ranks = ep->options.ranks;
    char own = 0, *all = malloc((size_t)ranks);
    if (chunk->windows) {
        ep->device_table->window_unmap(ep->device, rank, ranks, bytes, chunk->windows);
        /* After a failure a rank that is late may still store there: the memory then stays until the process ends. */
        if (!ep->is_broken) {
            if (all) moet_ep_comm_allgather(ep->control, &own, 1, all);
            ep->device_table->window_free(ep->device, bytes, chunk->windows[rank]);
        }
    }
    free(all);
    free(chunk->windows);
}

static moet_status open_route(moet_ep *ep, moet_ep_chunk *c)
{
    const moet_ep_options *o = &ep->options;
    const size_t N = (size_t)o->ranks, T = (size_t)ep->chunk_tokens;
    const bool is_rows = o->returns == MOET_EP_RETURNS_ROWS;
    moet_ep_pass *p = &c->pass;
    size_t bytes = 0;
    const size_t slot = moet_ep_put(&bytes, N * T * 4), pair = moet_ep_put(&bytes, is_rows ? N * T * 4 : 0);
    const size_t send_counts = moet_ep_put(&bytes, N * 8), recv_counts = moet_ep_put(&bytes, N * 8);
    const size_t frozen = moet_ep_put(&bytes, N * 8 + 4), first = moet_ep_put(&bytes, N * 4);
    const size_t pair_first = moet_ep_put(&bytes, N * 4), recv_first = moet_ep_put(&bytes, N * 4);
    const size_t recv_pair_first = moet_ep_put(&bytes, N * 4), recv_tokens = moet_ep_put(&bytes, 4);
    const size_t pointers = moet_ep_put(&bytes, 9 * N * sizeof(void *));
    const size_t epochs = moet_ep_put(&bytes, MOET_EP_EPOCHS * 4);
    const size_t given_pieces = (T + MOET_EP_GIVEN_SLOTS - 1) / MOET_EP_GIVEN_SLOTS;
    const size_t given_units = moet_ep_put(&bytes, given_pieces * 4);
    const size_t tell = moet_ep_put(&bytes, (MOET_EP_MAX_CHUNKS + 1) * 4);
    MOET_TRY(moet_ep_alloc(ep, bytes, &c->route));
    MOET_TRY(ep->device->backend->fill(ep->device, c->route, 0, bytes));
    char *at = c->route;
#define MEMBER(name) (p->name = (void *)(at + name))
    MEMBER(slot), MEMBER(send_counts), MEMBER(recv_counts), MEMBER(first), MEMBER(pair_first);
    MEMBER(recv_first), MEMBER(recv_pair_first), MEMBER(recv_tokens), MEMBER(epochs), MEMBER(tell);
    MEMBER(given_units);
    if (is_rows) MEMBER(pair);
    c->frozen = (void *)(at + frozen);
#undef MEMBER
    void **lists = (void **)(void *)(at + pointers);
    p->to = lists;
    p->from = (const void *const *)(lists + N);
    p->places = (const int32_t *const *)(lists + 2 * N);
    p->peer_words = (uint64_t *const *)(void *)(lists + 3 * N);
    p->peer_arrived = (uint32_t *const *)(void *)(lists + 4 * N);
    p->peer_ready = (uint32_t *const *)(void *)(lists + 5 * N);
    p->peer_back = lists + 6 * N;
    p->peer_tails = lists + 7 * N;
    p->peer_given = (uint32_t *const *)(void *)(lists + 8 * N);
    p->given_pieces = (int32_t)given_pieces;
    p->lost = &ep->words[MOET_EP_LOST];
    p->failure = (int32_t *)&ep->words[MOET_EP_FAILURE];
    p->timeout_ns = (int64_t)o->timeout_ms * 1000000;
    p->max_tokens = (int32_t)ep->chunk_tokens;
    p->rank = o->rank;
    p->ranks = o->ranks;
    p->choices = o->choices;
    p->local_experts = ep->local.experts;
    p->hidden = ep->problem.hidden;
    p->width = ep->width;
    p->row_bytes = p->tail_bytes = moet_ep_row_bytes(p->hidden, p->choices);
    p->own_split = INT32_MAX;
    p->returns_rows = is_rows;
    p->is_weighted = ep->problem.prob == MOET_PROB_COMBINE;
    p->single_plain = ep->problem.combine == MOET_COMBINE_PADDLE;
    return MOET_OK;
}

static moet_status open_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    const moet_backend *backend = ep->device->backend;
    MOET_TRY(open_route(ep, c));
    MOET_TRY(backend->event_create(ep->device, &c->arrived));
    MOET_TRY(backend->event_create(ep->device, &c->computed));
    for (int32_t i = 0; i < MOET_EP_MAX_CHUNKS; i++) MOET_TRY(backend->event_create(ep->device, &c->sent[i]));
    return ep->transport->open(ep, c);
}

static void close_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    const moet_backend *backend = ep->device->backend;
    if (ep->transport) ep->transport->close(ep, c);
    backend->free(ep->device, c->route);
    backend->event_destroy(ep->device, c->arrived);
    backend->event_destroy(ep->device, c->computed);
    for (int32_t i = 0; i < MOET_EP_MAX_CHUNKS; i++) backend->event_destroy(ep->device, c->sent[i]);
    *c = (moet_ep_chunk){0};
}

static moet_status open_chunks(moet_ep *ep)
{
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < ep->chunk_count && status == MOET_OK; i++) status = open_chunk(ep, &ep->chunks[i]);
    return status;
}

static void close_chunks(moet_ep *ep)
{
    for (int32_t i = 0; i < ep->chunk_count; i++) close_chunk(ep, &ep->chunks[i]);
}

/* ---- creation ---- */

moet_status moet_ep_meet(const moet_device *device, const moet_ep_options *o, volatile int32_t *lost,
                         moet_ep_comm **control)
{
    const bool is_host = strcmp(device->backend->name, "host") == 0;
    const bool is_mpirun = is_host && o->ranks > 1 && getenv("OMPI_COMM_WORLD_RANK") && !o->rendezvous[0];
    const int32_t timeout_ms = o->timeout_ms ? o->timeout_ms : DEFAULT_TIMEOUT_MS;
    if (strcmp(o->net, "mpi") == 0 || (is_auto(o->net) && is_mpirun))
        return moet_ep_comm_create_mpi(o->rank, o->ranks, timeout_ms, control);
    if (o->ranks > 1 && !o->rendezvous[0])
        return moet_fail(MOET_INVALID,
                         "moet_ep: %d ranks need a rendezvous, HOST:PORT of rank 0: set MASTER_ADDR and "
                         "MASTER_PORT",
                         o->ranks);
    return moet_ep_comm_create_socket(o->rank, o->ranks, o->rendezvous, timeout_ms, lost, control);
}

/* What rows travel by where they are exchanged. */
static moet_status create_data(moet_ep *ep)
{
    const moet_ep_transport *transport = ep->transport;
    if (transport->create_data) return transport->create_data(ep, &ep->data);
#ifdef MOET_CUDA
    if (has_cuda(ep) && ep->options.ranks > 1 && !transport->is_by_memory)
        return moet_ep_comm_create_nccl(ep->control, ep->options.comm_sms, &ep->data);
#endif
    return MOET_OK;
}

/* The one that is asked for; else lsa, and exchange where that is not to be had. All ranks come to the same. */
static moet_status open_transport(moet_ep *ep)
{
    const size_t before = ep->memory_bytes;
    ep->data = ep->control;
    ep->transport = is_auto(ep->options.transport) ? &moet_ep_transport_lsa : transport_find(ep->options.transport);
    MOET_TRY(create_data(ep));
    const moet_status status = open_chunks(ep);
    if (!is_auto(ep->options.transport) || status != MOET_UNSUPPORTED) return status;
    close_chunks(ep);
    ep->memory_bytes = before;
    ep->transport = &moet_ep_transport_exchange;
    MOET_TRY(create_data(ep));
    return open_chunks(ep);
}

static moet_status create_plan(moet_ep *ep)
{
    const moet_ep_options *o = &ep->options;
    const int32_t sms = ep->device->info.sm_count;
    moet_plan_options plan = {.max_rows = ep->max_rows,
                              .max_tokens = ep->recv_rows,
                              .choices = o->choices,
                              .device_counts = true,
                              .expected_rows = ep->expected_rows};
    if (ep->max_rows > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID,
                         "moet_ep: max_tokens %lld may give a rank %lld rows, at most %d are served: "
                         "fewer tokens a run, or more chunks",
                         (long long)o->max_tokens, (long long)ep->max_rows, MOET_MAX_ROWS);
    if (plan.expected_rows > plan.max_rows) plan.expected_rows = plan.max_rows;
    if (ep->chunk_count > 1 && o->comm_sms > 0 && o->comm_sms < sms) plan.max_sms = sms - o->comm_sms;
    const moet_ep_transport *named = transport_find(o->transport);
    if (named && named->plan_experts) named->plan_experts(ep, &plan);
    MOET_TRY(moet_plan_create(ep->handle, &ep->local, &plan, &ep->plan));
    ep->memory_bytes += moet_plan_workspace_bytes(ep->plan);
    const size_t bytes = (size_t)ep->max_rows * 4;
    void *none = NULL;
    MOET_TRY(moet_ep_alloc(ep, bytes, &none));
    ep->none = none;
    return ep->device->backend->fill(ep->device, none, 0xff, bytes);
}

static moet_status create_streams(moet_ep *ep)
{
    const moet_backend *backend = ep->device->backend;
    const moet_ep_transport *transport = transport_find(ep->options.transport);
    if (ep->chunk_count == 1 && !(transport && transport->run)) return MOET_OK;
    MOET_TRY(backend->stream_create(ep->device, &ep->comm_stream));
    MOET_TRY(backend->event_create(ep->device, &ep->begun));
    return backend->event_create(ep->device, &ep->ended);
}

static void describe(moet_ep *ep)
{
    const moet_ep_options *o = &ep->options;
    moet_choice choice = {0};
    if (moet_plan_query(ep->plan, NULL, &choice) != MOET_OK) choice.config[0] = '\0';
    snprintf(ep->text, sizeof ep->text, "%s over %s, met by %s, ranks=%d, returns=%s, chunks=%d, comm_sms=%d%s, %.380s",
             ep->transport->name, ep->transport->is_by_memory ? "memory" : ep->data->table->name,
             ep->control->table->name, o->ranks, moet_ep_returns_name(o->returns), o->chunks, o->comm_sms,
             ep->is_chosen ? " by the table" : "", choice.config);
}

/* What depends on how the layer is run. */
static moet_status build(moet_ep *ep)
{
    resolve_chunks(ep);
    MOET_TRY(create_plan(ep));
    MOET_TRY(create_streams(ep));
    return open_transport(ep);
}

static void tear_down(moet_ep *ep)
{
    const moet_backend *backend = ep->device->backend;
    close_chunks(ep);
    moet_plan_destroy(ep->plan);
    backend->free(ep->device, ep->none);
    backend->stream_destroy(ep->device, ep->comm_stream);
    backend->event_destroy(ep->device, ep->begun);
    backend->event_destroy(ep->device, ep->ended);
    if (ep->data != ep->control) moet_ep_comm_destroy(ep->data);
    ep->transport = NULL;
    ep->plan = NULL;
    ep->none = NULL;
    ep->comm_stream = ep->begun = ep->ended = NULL;
    ep->data = NULL;
    ep->memory_bytes = 0;
}

/* As the table says, or where that cannot be had as without it. All ranks come to the same. */
static moet_status build_chosen(moet_ep *ep)
{
    const moet_ep_options open = ep->options;
    MOET_TRY(choose(ep));
    const moet_status status = build(ep);
    if (!ep->is_chosen || (status != MOET_UNSUPPORTED && status != MOET_NOT_FOUND)) return status;
    if (ep->device->is_stuck) return status;
    tear_down(ep);
    ep->is_chosen = false;
    ep->options = open;
    return build(ep);
}

static void release(moet_ep *ep)
{
    if (ep->device->is_stuck) { /* the rest goes with the process; the others learn of it now */
        moet_ep_comm_destroy(ep->control);
        return;
    }
    tear_down(ep);
    if (ep->stages_table) ep->stages_table->destroy(ep->stages);
    moet_ep_comm_destroy(ep->control);
    if (ep->words) ep->device_table->words_free(ep->device, (void *)ep->words);
    free(ep);
}

moet_status moet_ep_create(moet_handle *handle, const moet_problem *problem, const moet_ep_options *options,
                           moet_ep **ep)
{
    MOET_NEED(handle);
    MOET_NEED(problem);
    MOET_NEED(options);
    MOET_NEED(ep);
    static const moet_ep_device_table *const devices[] = {
#ifdef MOET_CUDA
        &moet_ep_device_cuda,
#endif
        &moet_ep_device_host,
    };
    static const moet_ep_stages_table *const stages[] = {
#ifdef MOET_CUDA
        &moet_ep_stages_cuda,
#endif
        &moet_ep_stages_host,
    };
    MOET_TRY(validate(problem, options));
    moet_ep *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "moet_ep: out of host memory");
    result->handle = handle;
    result->device = handle->device;
    result->problem = *problem;
    result->options = *options;
    for (int32_t i = 0; i < MOET_COUNT_OF(devices); i++) { /* the same backends in the same order */
        if (strcmp(devices[i]->backend, handle->device->backend->name) != 0) continue;
        result->device_table = devices[i];
        result->stages_table = stages[i];
    }
    if (!result->device_table) {
        free(result);
        return moet_fail(MOET_UNSUPPORTED, "moet_ep: no expert parallelism on backend '%s' in this build",
                         handle->device->backend->name);
    }
    resolve(result);
    void *words = NULL;
    moet_status status = result->device_table->words_alloc(result->device, MOET_EP_WORDS * sizeof(int32_t), &words);
    result->words = words;
    if (status == MOET_OK)
        status = moet_ep_meet(result->device, &result->options, &result->words[MOET_EP_LOST], &result->control);
    if (status == MOET_OK) status = agree_on_options(result);
    if (status == MOET_OK) status = result->stages_table->create(result->device, &result->stages);
    if (status == MOET_OK) status = build_chosen(result);
    if (status == MOET_OK) status = agree_on_config(result);
    if (status != MOET_OK) {
        result->is_broken = true;
        release(result);
        return status;
    }
    describe(result);
    *ep = result;
    return MOET_OK;
}

void moet_ep_destroy(moet_ep *ep)
{
    if (!ep) return;
    if (!ep->device->is_stuck) ep->device->backend->stream_synchronize(ep->device, ep->comm_stream);
    char own = 0, *all = malloc((size_t)ep->options.ranks);
    /* Nobody's memory goes while another may use it. */
    if (all && !ep->is_broken && moet_ep_comm_allgather(ep->control, &own, 1, all) != MOET_OK) ep->is_broken = true;
    free(all);
    release(ep);
}

const char *moet_ep_describe(const moet_ep *ep) { return ep->text; }
const char *moet_ep_transport_name(const moet_ep *ep)
{
    return strchr(ep->options.transport, ':') ? ep->options.transport : ep->transport->name;
}
bool moet_ep_is_graph_safe(const moet_ep *ep) { return ep->transport->is_graph_safe; }
size_t moet_ep_memory_bytes(const moet_ep *ep) { return ep->memory_bytes; }
