/* ep_host: ep_stages.h on the host, in plain C on the caller's thread: the reference of ep.cu too. Ranks are processes;
 * with lsa their windows are shared memory, and what passes between them is ordered by atomics. */
#include <math.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../src/ep_stages.h"
#include "reference.h"

/* A token's choices by ascending expert, each expert once. */
typedef struct choice {
    int32_t expert, rank; /* of the whole layer; the rank that has it */
    float weight;
} choice;

static int32_t choices_of(const moet_ep_pass *p, int64_t token, choice *list)
{
    const int64_t experts = (int64_t)p->local_experts * p->ranks;
    int32_t count = 0;
    for (int32_t c = 0; c < p->choices; c++) {
        const int64_t at = token * p->ids_stride + c;
        const int64_t id = p->ids_int64 ? ((const int64_t *)p->ids)[at] : ((const int32_t *)p->ids)[at];
        if (id < 0 || id >= experts) continue;
        int32_t place = count;
        while (place > 0 && list[place - 1].expert > id) place--;
        if (place > 0 && list[place - 1].expert == id) continue; /* the first one counts */
        for (int32_t i = count; i > place; i--) list[i] = list[i - 1];
        list[place] = (choice){(int32_t)id, (int32_t)(id / p->local_experts),
                               p->weights ? p->weights[token * p->weights_stride + c] : 1};
        count++;
    }
    return count;
}

/* ---- waiting for other ranks ---- */

enum { SPIN_NS = 20000 };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void fail(const moet_ep_pass *p, int32_t what, int32_t rank)
{
    if (*p->failure == 0) *p->failure = what | rank;
}

/* One step of a wait that began at begin_ns; false: it is over, and failure is set. */
static bool wait_on(const moet_ep_pass *p, int64_t begin_ns, int32_t rank)
{
    const int64_t waited_ns = now_ns() - begin_ns;
    if (!*p->lost && waited_ns < p->timeout_ns) {
        if (waited_ns < SPIN_NS)
            sched_yield();
        else
            usleep(50); /* ranks may be more than processors */
        return true;
    }
    fail(p, MOET_EP_FAILED_WAIT, rank);
    return false;
}

/* Until every rank's flag here has got to `epoch`. */
static void wait_for_all(const moet_ep_pass *p, const uint32_t *flags, uint32_t epoch)
{
    const int64_t begin_ns = now_ns();
    for (int32_t s = 0; s < p->ranks; s++) {
        while ((int32_t)(__atomic_load_n(&flags[s], __ATOMIC_ACQUIRE) - epoch) < 0) {
            if (!wait_on(p, begin_ns, s)) return;
        }
    }
}

static void tell_all(const moet_ep_pass *p, uint32_t *const *flags, uint32_t epoch)
{
    for (int32_t q = 0; q < p->ranks; q++) __atomic_store_n(&flags[q][p->rank], epoch, __ATOMIC_RELEASE);
}

/* ---- plan, bases ---- */

static moet_status host_plan(moet_ep_stages *stages, const moet_ep_pass *p, void *stream)
{
    (void)stages, (void)stream;
    choice list[MOET_MAX_CHOICES];
    memset(p->send_counts, 0, (size_t)p->ranks * 2 * sizeof *p->send_counts);
    for (int64_t t = 0; t < p->tokens; t++) {
        const int32_t count = choices_of(p, t, list);
        for (int32_t q = 0; q < p->ranks; q++) {
            p->slot[(int64_t)q * p->max_tokens + t] = -1;
            if (p->pair) p->pair[(int64_t)q * p->max_tokens + t] = p->send_counts[2 * q + 1];
        }
        for (int32_t i = 0; i < count; i++) {
            const int32_t q = list[i].rank;
            if (i == 0 || list[i - 1].rank != q) p->slot[(int64_t)q * p->max_tokens + t] = p->send_counts[2 * q]++;
            if (p->pair) p->send_counts[2 * q + 1]++;
        }
    }
    for (int32_t q = 0; q < 2 * p->ranks && p->frozen; q++) {
        if (p->frozen[q] != p->send_counts[q] || p->frozen[2 * p->ranks] != p->frozen_number)
            fail(p, MOET_EP_FAILED_ROUTING, p->rank);
    }
    if (!p->is_lsa) return MOET_OK;
    const uint64_t epoch = p->epochs[0] + 1;
    for (int32_t to = 0; to < p->ranks; to++) {
        for (int32_t q = 0; q < p->ranks; q++)
            __atomic_store_n(&p->peer_words[to][p->rank * p->ranks + q], epoch << 32 | (uint32_t)p->send_counts[2 * q],
                             __ATOMIC_RELEASE);
    }
    return MOET_OK;
}

/* Rows that `sender` has for `receiver`. */
static int32_t word_wait(const moet_ep_pass *p, int32_t sender, int32_t receiver, int64_t begin_ns)
{
    const uint64_t *word = &p->peer_words[p->rank][sender * p->ranks + receiver];
    const uint32_t epoch = p->epochs[0] + 1;
    for (;;) {
        const uint64_t value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        if ((uint32_t)(value >> 32) == epoch) return (int32_t)(uint32_t)value;
        if (!wait_on(p, begin_ns, sender)) return 0;
    }
}

static moet_status host_bases(moet_ep_stages *stages, const moet_ep_pass *p, void *stream)
{
    (void)stages, (void)stream;
    const int64_t begin_ns = now_ns();
    int32_t received = 0, received_pairs = 0, sent = 0, sent_pairs = 0;
    if (p->is_lsa) {
        for (int32_t q = 0; q < p->ranks; q++) {
            p->first[q] = 0;
            for (int32_t s = 0; s < p->rank; s++) p->first[q] += word_wait(p, s, q, begin_ns);
            p->recv_counts[2 * q] = word_wait(p, q, p->rank, begin_ns);
        }
        for (int32_t s = 0; s < p->ranks; s++) { /* words are written again only after all are read */
            for (int32_t q = 0; q < p->ranks; q++) word_wait(p, s, q, begin_ns);
        }
        p->epochs[0]++;
    }
    for (int32_t s = 0; s < p->ranks; s++) {
        p->recv_first[s] = p->is_bound ? s * p->max_tokens : received;
        received += p->recv_counts[2 * s];
        if (s == p->rank || p->is_lsa) continue;
        p->recv_pair_first[s] = received_pairs;
        received_pairs += p->recv_counts[2 * s + 1];
    }
    for (int32_t q = 0; q < p->ranks && !p->is_lsa; q++) { /* as they lie in the buffers of this rank */
        if (q == p->rank) {
            p->first[q] = p->recv_first[q];
            continue;
        }
        p->first[q] = p->is_bound ? q * p->max_tokens : sent;
        p->pair_first[q] = sent_pairs;
        sent += p->send_counts[2 * q];
        sent_pairs += p->send_counts[2 * q + 1];
    }
    *p->recv_tokens = p->is_bound ? p->ranks * p->max_tokens : received;
    return MOET_OK;
}

/* ---- dispatch ---- */

static uint8_t *row_at(const moet_ep_pass *p, int32_t rank, int64_t slot)
{
    return (uint8_t *)p->to[rank] + (p->first[rank] + slot) * p->row_bytes;
}

static void write_tail(const moet_ep_pass *p, void *tail, const choice *list, int32_t count, int32_t rank, int32_t pair)
{
    int32_t *ids = tail;
    float *weights = (float *)(ids + p->choices);
    int32_t n = 0;
    for (int32_t i = 0; i < count; i++) {
        if (list[i].rank != rank) continue;
        ids[n] = list[i].expert - rank * p->local_experts;
        weights[n++] = list[i].weight;
    }
    for (; n < p->choices; n++) ids[n] = -1, weights[n] = 0;
    memcpy(weights + p->choices, &pair, sizeof pair);
}

static moet_status host_dispatch(moet_ep_stages *stages, const moet_ep_pass *p, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    choice list[MOET_MAX_CHOICES];
    if (*p->failure) return MOET_OK; /* where rows go is not known */
    for (int64_t t = 0; t < p->tokens; t++) {
        const int32_t count = choices_of(p, t, list);
        for (int32_t i = 0; i < count; i++) {
            const int32_t q = list[i].rank;
            if (i > 0 && list[i - 1].rank == q) continue;
            const int64_t at = (int64_t)q * p->max_tokens + t;
            uint8_t *row = row_at(p, q, p->slot[at]);
            memcpy(row, (const uint16_t *)p->x + t * p->x_stride, (size_t)p->hidden * 2);
            write_tail(p, row + 2 * (int64_t)p->hidden, list, count, q, p->pair ? p->pair[at] : 0);
        }
    }
    for (int32_t q = 0; q < p->ranks && p->is_bound; q++) {
        for (int64_t i = p->send_counts[2 * q]; i < p->max_tokens; i++)
            write_tail(p, row_at(p, q, i) + 2 * (int64_t)p->hidden, NULL, 0, q, 0);
    }
    if (p->is_lsa) {
        const uint32_t epoch = ++p->epochs[1];
        tell_all(p, p->peer_arrived, epoch);
        wait_for_all(p, p->peer_arrived[p->rank], epoch);
    }
    return MOET_OK;
}

/* ---- pack ---- */

static moet_status host_pack(moet_ep_stages *stages, const moet_ep_pass *p, const void *tails, const void *rows,
                             const int32_t *places, void *packed, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    const size_t bytes = (size_t)p->hidden * 2;
    for (int32_t s = 0; s < p->ranks; s++) {
        if (s == p->rank) continue;
        for (int64_t r = p->recv_first[s]; r < p->recv_first[s] + p->recv_counts[2 * s]; r++) {
            int32_t pair;
            memcpy(&pair, (const uint8_t *)tails + r * p->tail_bytes + 8 * (size_t)p->choices, sizeof pair);
            for (int32_t i = 0; i < p->width && places[r * p->width + i] >= 0; i++)
                memcpy((uint8_t *)packed + (size_t)(p->recv_pair_first[s] + pair + i) * bytes,
                       (const uint8_t *)rows + (size_t)places[r * p->width + i] * bytes, bytes);
        }
    }
    return MOET_OK;
}

/* ---- give ---- */

/* A row's pairs, of which `places` are there, into out [H]: as moet_ffn combines them. */
static void sum_pairs(const moet_ep_pass *p, const uint16_t *rows, const int32_t *places, const float *weights,
                      uint16_t *out)
{
    int32_t count = 0;
    while (count < p->width && places[count] >= 0) count++;
    const bool is_weighted = p->is_weighted && !(p->single_plain && count == 1);
    for (int32_t h = 0; h < p->hidden; h++) {
        float sum = 0;
        for (int32_t i = 0; i < count; i++) {
            const float value = moet_bf16_to_float(rows[(int64_t)places[i] * p->hidden + h]);
            sum = is_weighted ? fmaf(value, weights[i], sum) : sum + value;
        }
        out[h] = count == 1 && !is_weighted ? rows[(int64_t)places[0] * p->hidden + h] : moet_bf16_from_float(sum);
    }
}

static moet_status host_give(moet_ep_stages *stages, const moet_ep_pass *p, const void *tails, const void *rows,
                             const int32_t *places, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    if (*p->failure) return MOET_OK;
    for (int32_t s = 0; s < p->ranks; s++) {
        if (s == p->rank) continue; /* combine adds these up */
        for (int64_t i = 0; i < p->recv_counts[2 * s]; i++) {
            const int64_t r = p->recv_first[s] + i;
            const uint8_t *tail = (const uint8_t *)tails + r * p->tail_bytes;
            if (places[r * p->width] < 0) continue; /* the rank knows that it has nothing here */
            sum_pairs(p, rows, places + r * p->width, (const float *)(const void *)(tail + 4 * (size_t)p->choices),
                      (uint16_t *)p->peer_back[s] + ((int64_t)p->rank * p->max_tokens + i) * p->hidden);
        }
    }
    const uint32_t epoch = ++p->epochs[2];
    tell_all(p, p->peer_ready, epoch);
    wait_for_all(p, p->peer_ready[p->rank], epoch);
    return MOET_OK;
}

/* ---- allgather ---- */

static moet_status host_spread(moet_ep_stages *stages, const moet_ep_pass *p, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    const size_t bytes = (size_t)p->hidden * 2;
    choice list[MOET_MAX_CHOICES];
    if (*p->failure) return MOET_OK;
    for (int64_t t = 0; t < (int64_t)p->pieces * p->piece_tokens; t++) {
        const bool is_there = t < p->tokens;
        const int32_t count = is_there ? choices_of(p, t, list) : 0;
        for (int32_t q = 0; q < p->ranks; q++) {
            const size_t slot = (size_t)moet_ep_slot_of(p, p->rank, q, t);
            const bool is_own = q == p->rank;
            write_tail(p, (uint8_t *)p->peer_tails[q] + slot * (size_t)p->tail_bytes, list, count, q, 0);
            if (is_there && p->spreads >= (is_own ? MOET_EP_SPREADS_OWN : MOET_EP_SPREADS_ALL) &&
                !(is_own && p->spreads == MOET_EP_SPREADS_ALL))
                memcpy((uint8_t *)p->to[q] + slot * bytes, (const uint16_t *)p->x + t * p->x_stride, bytes);
        }
    }
    for (int32_t i = 0; i < p->pieces; i++) p->tell[i] = ++p->epochs[1];
    if (p->awaits_ready) {
        p->tell[p->pieces] = ++p->epochs[2];
        p->peer_ready[p->rank][p->rank] = p->epochs[2];
    }
    p->peer_arrived[p->rank][p->rank] = p->epochs[1];
    if (p->spreads >= MOET_EP_SPREADS_ALL) tell_all(p, p->peer_arrived, p->epochs[1]);
    if (p->spreads == MOET_EP_SPREADS_AND_WAITS) wait_for_all(p, p->peer_arrived[p->rank], p->epochs[1]);
    return MOET_OK;
}

static moet_status host_await(moet_ep_stages *stages, const moet_ep_pass *p, int32_t piece, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    if (!*p->failure) wait_for_all(p, p->peer_arrived[p->rank], p->tell[piece]);
    return MOET_OK;
}

/* ---- combine ---- */

/* A row that comes back, and what it counts. */
typedef struct returned {
    const uint16_t *row;
    float weight;
} returned;

/* Where a token's row, or sum, is in what came back from rank q, if q has any. */
static int64_t back_slot(const moet_ep_pass *p, int32_t q, int64_t token)
{
    return p->slot ? (p->is_given ? 0 : p->first[q]) + p->slot[(int64_t)q * p->max_tokens + token] : token;
}

static int32_t returned_of(const moet_ep_pass *p, int64_t token, returned *list)
{
    choice choices[MOET_MAX_CHOICES];
    const int32_t count = choices_of(p, token, choices);
    int32_t found = 0, nth = 0; /* nth: of the rank's */
    for (int32_t i = 0; i < count; i++) {
        const int32_t q = choices[i].rank;
        const int64_t at = (int64_t)q * p->max_tokens + token, slot = back_slot(p, q, token);
        nth = i > 0 && choices[i - 1].rank == q ? nth + 1 : 0;
        if (!p->returns_rows && nth > 0) continue;
        int64_t row = slot;
        if (p->returns_rows)
            row = p->places[q] ? p->places[q][slot * p->width + nth] : p->pair_first[q] + p->pair[at] + nth;
        list[found].row = (const uint16_t *)p->from[q] + row * p->hidden;
        list[found++].weight = choices[i].weight;
    }
    return found;
}

/* is_given: the sum of a token's rows of this rank, to where other ranks would have given it. */
static void own_sum(const moet_ep_pass *p, int64_t token)
{
    const int64_t slot = back_slot(p, p->rank, token), r = p->slot ? p->recv_first[p->rank] + slot : token;
    const int64_t behind = token >= p->own_split ? (int64_t)p->own_split * p->width : 0;
    float weights[MOET_MAX_CHOICES];
    choice choices[MOET_MAX_CHOICES];
    const int32_t count = choices_of(p, token, choices);
    int32_t found = 0;
    for (int32_t i = 0; i < count; i++) {
        if (choices[i].rank == p->rank) weights[found++] = choices[i].weight;
    }
    if (found == 0) return;
    sum_pairs(p, (const uint16_t *)p->own_rows + behind * p->hidden, p->own_places + r * p->width, weights,
              (uint16_t *)p->from[p->rank] + slot * p->hidden);
}

static moet_status host_combine(moet_ep_stages *stages, const moet_ep_pass *p, int32_t sms, void *stream)
{
    (void)stages, (void)sms, (void)stream;
    const bool is_weighted = p->is_weighted && p->returns_rows;
    if (p->is_lsa && !p->is_given) {
        const uint32_t epoch = ++p->epochs[2];
        tell_all(p, p->peer_ready, epoch);
        wait_for_all(p, p->peer_ready[p->rank], epoch);
    }
    if (p->awaits_ready && !*p->failure) wait_for_all(p, p->peer_ready[p->rank], p->tell[p->pieces]);
    if (*p->failure) return MOET_OK; /* what would be read is not there */
    for (int64_t t = 0; t < p->tokens; t++) {
        returned list[MOET_MAX_CHOICES];
        const int32_t count = returned_of(p, t, list);
        if (p->is_given) own_sum(p, t);
        uint16_t *out = (uint16_t *)p->out + t * p->out_stride;
        for (int32_t h = 0; h < p->hidden; h++) {
            float sum = 0;
            for (int32_t i = 0; i < count; i++) {
                const float value = moet_bf16_to_float(list[i].row[h]);
                sum = is_weighted ? fmaf(value, list[i].weight, sum) : sum + value;
            }
            /* A sum would turn -0 into +0. */
            out[h] = count == 1 && !is_weighted ? list[0].row[h] : moet_bf16_from_float(sum);
        }
    }
    return MOET_OK;
}

static moet_status host_give_and_combine(moet_ep_stages *stages, const moet_ep_pass *p, const void *tails,
                                         const void *rows, const int32_t *places, int32_t sms, void *stream)
{
    MOET_TRY(host_give(stages, p, tails, rows, places, sms, stream));
    return host_combine(stages, p, sms, stream);
}

/* ---- for a library that dispatches itself ---- */

static moet_status host_choices(moet_ep_stages *stages, const moet_ep_pass *p, int32_t *ids, float *weights,
                                void *stream)
{
    (void)stages, (void)stream;
    choice list[MOET_MAX_CHOICES];
    for (int64_t t = 0; t < p->tokens; t++) {
        const int32_t count = choices_of(p, t, list);
        for (int32_t c = 0; c < p->choices; c++) {
            ids[t * p->choices + c] = c < count ? list[c].expert : -1;
            weights[t * p->choices + c] = c < count ? list[c].weight : 0;
        }
    }
    return MOET_OK;
}

static moet_status host_copy(moet_ep_stages *stages, void *to, int64_t to_stride, const void *from, int64_t from_stride,
                             int64_t rows, int32_t hidden, void *stream)
{
    (void)stages, (void)stream;
    for (int64_t r = 0; r < rows; r++)
        memcpy((uint16_t *)to + r * to_stride, (const uint16_t *)from + r * from_stride, (size_t)hidden * 2);
    return MOET_OK;
}

static moet_status host_slots(moet_ep_stages *stages, const int32_t *first, int32_t experts, const int32_t *total,
                              int32_t *ids, int32_t bound, void *stream)
{
    (void)stages, (void)stream;
    int32_t e = 0;
    for (int32_t i = 0; i < bound; i++) {
        while (e + 1 < experts && first[e + 1] <= i) e++;
        ids[i] = i < *total ? e : -1;
    }
    return MOET_OK;
}

static moet_status host_create(moet_device *device, moet_ep_stages **stages)
{
    (void)device;
    *stages = NULL; /* nothing to keep */
    return MOET_OK;
}

static void host_destroy(moet_ep_stages *stages) { (void)stages; }

const moet_ep_stages_table moet_ep_stages_host = {
    .backend = "host",
    .create = host_create,
    .destroy = host_destroy,
    .plan = host_plan,
    .bases = host_bases,
    .dispatch = host_dispatch,
    .pack = host_pack,
    .give = host_give,
    .give_and_combine = host_give_and_combine,
    .spread = host_spread,
    .await = host_await,
    .combine = host_combine,
    .choices = host_choices,
    .copy = host_copy,
    .slots = host_slots,
};
