/* emulated: fibers for emulated.h. A round gives turns to the warps of every block that is resident; a warp's lanes run
 * until each has ended, waits for others of its block, or gave its turn away. Orders are drawn by chance, and
 * warps and blocks are left out of rounds, some of them often ($MOET_EMULATED_SEED draws others): what is not ordered
 * comes in any order. After rounds in which all that ran were waits for other blocks or ranks, the process sleeps. */
#include "emulated.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>
#if !defined __x86_64__
#include <ucontext.h>
#endif

emulated_index threadIdx, blockIdx, blockDim, gridDim;

/* What __shared__ made; one copy a block, put here when the block runs. */
extern "C" char __start_moet_shared[] __attribute__((weak));
extern "C" char __stop_moet_shared[] __attribute__((weak));

namespace {
enum { STACK_BYTES = 64 << 10, IDLE_ROUNDS = 16, SLEEP_US = 50, POISON = 0xa5 };
enum { PAUSES = 4, SPINS = 2, TURNS = 64 }; /* one of so many gives way, or ends a warp's turn */

/* ---- from one stack to another ---- */

#if defined __x86_64__
typedef void *stack_place;
extern "C" void emulated_switch(stack_place *from, stack_place to);
asm(".text\n"
    ".globl emulated_switch\n"
    ".hidden emulated_switch\n"
    ".type emulated_switch, @function\n"
    "emulated_switch:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "ret\n"
    ".size emulated_switch, . - emulated_switch\n");
void switch_stacks(stack_place *from, stack_place *to) { emulated_switch(from, *to); }
void stack_begin(stack_place *place, char *stack, size_t bytes, void (*function)(void))
{
    uintptr_t *top = (uintptr_t *)(void *)(stack + bytes);
    top[-2] = (uintptr_t)function; /* as after a call */
    *place = top - 2 - 6;
}
#else
typedef ucontext_t stack_place;
void switch_stacks(stack_place *from, stack_place *to) { swapcontext(from, to); }
void stack_begin(stack_place *place, char *stack, size_t bytes, void (*function)(void))
{
    getcontext(place);
    place->uc_stack.ss_sp = stack;
    place->uc_stack.ss_size = bytes;
    place->uc_link = nullptr;
    makecontext(place, function, 0);
}
#endif

/* ---- the grid ---- */

struct fiber {
    stack_place place;
    struct warp *warp;
    unsigned lane;
    /* what it brings to a meeting, and takes from it */
    emulated_op op;
    unsigned mask;
    uint64_t value;
    int from;
    bool follows;
};

/* Each lane of `all` is in one of the others up to `ended`. */
struct warp {
    struct block *block;
    unsigned index, all, ready, gave_way, meets /* lanes */, waits /* for the block */, ended;
    unsigned spins; /* lanes that gave way as they wait for other blocks or ranks */
    unsigned rests; /* of 8 rounds, on average */
};

struct block {
    unsigned index, rests;
    bool is_running;
    emulated_op op;
    unsigned waiting, ended;
    uint64_t result;
    std::vector<warp> warps;
    fiber *fibers;
    std::vector<char> shared;
};

std::vector<block> resident;
std::vector<fiber> all_fibers;
char *stacks;
size_t stack_count;
const emulated_kernel *kernel;
void **kernel_args;
bool must_follow, has_progress;
fiber *running;
block *in_place; /* whose shared memory is there */
stack_place scheduler;
uint64_t random_state;

unsigned draw(unsigned below)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * below >> 32);
}

unsigned draw_rests(void)
{
    static const unsigned of[] = {0, 0, 4, 7};
    return of[draw(4)];
}

__attribute__((format(printf, 1, 2), noreturn)) void stop(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%s: ", kernel->name);
    if (running) fprintf(stderr, "block %u, thread %u: ", running->warp->block->index, threadIdx.x);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    abort();
}

void leave(void) { switch_stacks(&running->place, &scheduler); }

unsigned lane_bit(const fiber *f) { return 1u << f->lane; }

fiber *fiber_of(const warp *w, unsigned lane) { return w->block->fibers + w->index * 32 + lane; }

/* ---- meetings ---- */

/* What the values come to. */
struct sum {
    uint64_t bits = 0, count = 0, add = 0, least = ~(uint64_t)0, most = 0, in_all = ~(uint64_t)0, in_any = 0, odd = 0;
    void take(uint64_t value, unsigned lane)
    {
        bits |= (uint64_t)(value != 0) << lane;
        count += value != 0;
        add += value;
        least = value < least ? value : least;
        most = value > most ? value : most;
        in_all &= value;
        in_any |= value;
        odd ^= value;
    }
    uint64_t of(emulated_op op) const
    {
        const uint64_t results[] = {0, 0, bits, count, add, least, most, in_all, in_any, odd};
        return results[op];
    }
};

/* Ends the meeting of the lanes in `mask` if all are there. */
void warp_meeting(warp *w, unsigned mask)
{
    const unsigned lanes = mask & w->all & ~w->ended;
    if (lanes == 0 || (lanes & ~w->meets)) return;
    const fiber *first = fiber_of(w, (unsigned)__builtin_ctz(lanes));
    if (first->mask != mask) return; /* of lanes that have ended */
    sum values;
    uint64_t brought[32] = {};
    for (unsigned left = lanes; left; left &= left - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(left);
        const fiber *f = fiber_of(w, lane);
        if (f->op != first->op || f->mask != mask)
            stop("lanes of warp %u of block %u meet for different things", w->index, w->block->index);
        brought[lane] = f->value;
        values.take(f->value, lane);
    }
    for (unsigned left = lanes; left; left &= left - 1) {
        fiber *f = fiber_of(w, (unsigned)__builtin_ctz(left));
        if (f->op != EMULATED_TAKE)
            f->value = values.of(f->op);
        else if (f->from >= 0 && (lanes >> f->from & 1))
            f->value = brought[f->from];
        else
            memset(&f->value, POISON, sizeof f->value);
    }
    w->meets &= ~lanes;
    w->ready |= lanes;
}

void block_meeting(block *b)
{
    if (b->waiting == 0 || b->waiting + b->ended < blockDim.x) return;
    sum values;
    for (warp &w : b->warps) {
        for (unsigned left = w.waits; left; left &= left - 1) {
            const fiber *f = fiber_of(&w, (unsigned)__builtin_ctz(left));
            if (f->op != b->op) stop("threads of block %u meet for different things", b->index);
            values.take(f->value, 0);
        }
        w.ready |= w.waits;
        w.waits = 0;
    }
    b->result = values.of(b->op);
    b->waiting = 0;
}

/* ---- turns ---- */

void give_way(bool is_progress)
{
    has_progress |= is_progress;
    running->warp->ready &= ~lane_bit(running);
    running->warp->gave_way |= lane_bit(running);
    if (!is_progress) running->warp->spins |= lane_bit(running);
    leave();
}

/* A fiber's stack begins here. */
void thread_main(void)
{
    kernel->run(kernel_args);
    warp *w = running->warp;
    if (must_follow && !running->follows) stop("ended without waiting for the launch before");
    has_progress = true;
    w->ready &= ~lane_bit(running);
    w->ended |= lane_bit(running);
    w->block->ended++;
    for (unsigned left = w->meets; left; left &= left - 1)
        warp_meeting(w, fiber_of(w, (unsigned)__builtin_ctz(left))->mask);
    block_meeting(w->block);
    w->block->is_running = w->block->ended < blockDim.x;
    leave();
    abort();
}

void shared_switch(block *b)
{
    const size_t bytes = b->shared.size();
    if (in_place == b || bytes == 0) return;
    if (in_place) memcpy(in_place->shared.data(), __start_moet_shared, bytes);
    memcpy(__start_moet_shared, b->shared.data(), bytes);
    in_place = b;
}

void block_begin(block *b, unsigned index)
{
    const unsigned threads = blockDim.x;
    b->index = index;
    b->rests = draw_rests();
    b->is_running = true;
    b->waiting = b->ended = 0;
    b->warps.assign((threads + 31) / 32, warp());
    if (in_place == b) in_place = nullptr;
    b->shared.assign((size_t)(__stop_moet_shared - __start_moet_shared), (char)POISON);
    for (unsigned i = 0; i < b->warps.size(); i++) {
        warp &w = b->warps[i];
        w.block = b;
        w.index = i;
        w.rests = draw_rests();
        w.all = w.ready = threads - 32 * i >= 32 ? ~0u : (1u << (threads - 32 * i)) - 1;
    }
    for (unsigned i = 0; i < threads; i++) {
        fiber *f = b->fibers + i;
        f->warp = &b->warps[i / 32];
        f->lane = i % 32;
        f->follows = false;
        /* Not all at the same place of a page: caches would hold few. */
        const size_t at = (size_t)(f - all_fibers.data()), colour = (at * 5 & 31) * 64;
        stack_begin(&f->place, stacks + at * STACK_BYTES + 4096, STACK_BYTES - 4096 - colour, thread_main);
    }
}

/* Lanes of a warp, from a drawn one on. */
void warp_turn(warp *w)
{
    const unsigned first = draw(32);
    while (w->ready) {
        const unsigned turned = first ? w->ready >> first | w->ready << (32 - first) : w->ready;
        running = fiber_of(w, ((unsigned)__builtin_ctz(turned) + first) & 31);
        w->spins &= ~lane_bit(running);
        threadIdx = {w->index * 32 + running->lane, 0, 0};
        switch_stacks(&scheduler, &running->place);
        running = nullptr;
        if (draw(TURNS) == 0) break;
    }
}

bool rests(unsigned of_eight) { return draw(8) < of_eight; }

/* Whether a thread of the block can run. */
bool block_turn(block *b)
{
    bool is_any = false, has_work = false;
    const unsigned count = (unsigned)b->warps.size(), first = draw(count);
    for (warp &w : b->warps) {
        w.ready |= w.gave_way;
        w.gave_way = 0;
        is_any |= w.ready != 0;
        has_work |= (w.ready & ~w.spins) != 0;
    }
    has_progress |= has_work;
    if (!is_any || rests(b->rests)) return is_any;
    shared_switch(b);
    blockIdx = {b->index, 0, 0};
    for (unsigned i = 0; i < count; i++) {
        warp *w = &b->warps[(i + first) % count];
        if (w->ready && !rests(w->rests)) warp_turn(w);
    }
    return true;
}

void stuck(void)
{
    for (const block &b : resident) {
        for (const warp &w : b.warps) {
            if (b.is_running && w.ended != w.all)
                fprintf(stderr, "block %u, warp %u: lanes %08x wait for lanes, %08x for the block, %08x have ended\n",
                        b.index, w.index, w.meets, w.waits, w.ended);
        }
    }
    stop("a deadlock");
}

/* Stacks that are there stay; a page that is not mapped lies below each. */
void stacks_grow(size_t count)
{
    if (count <= stack_count) return;
    if (stacks) munmap(stacks, stack_count * STACK_BYTES);
    void *memory =
        mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) stop("no memory for %zu stacks", count);
    stacks = (char *)memory;
    stack_count = count;
    for (size_t i = 0; i < count; i++) mprotect(stacks + i * STACK_BYTES, 4096, PROT_NONE);
}
} // namespace

/* ---- what kernels call ---- */

uint64_t emulated_warp(emulated_op op, unsigned mask, uint64_t value, int from)
{
    fiber *f = running;
    warp *w = f->warp;
    if (!(mask & lane_bit(f))) stop("a lane that its own mask lacks");
    f->op = op;
    f->mask = mask;
    f->value = value;
    f->from = from;
    w->ready &= ~lane_bit(f);
    w->meets |= lane_bit(f);
    has_progress = true;
    warp_meeting(w, mask);
    if (!(w->ready & lane_bit(f))) leave();
    return f->value;
}

uint64_t emulated_block(emulated_op op, uint64_t value)
{
    fiber *f = running;
    warp *w = f->warp;
    block *b = w->block;
    f->value = value;
    f->op = b->op = op;
    w->ready &= ~lane_bit(f);
    w->waits |= lane_bit(f);
    b->waiting++;
    has_progress = true;
    block_meeting(b);
    if (!(w->ready & lane_bit(f))) leave();
    return b->result;
}

void emulated_spin(void)
{
    if (draw(SPINS) == 0) give_way(false);
}

void emulated_pause(void)
{
    if (draw(PAUSES) == 0) give_way(true);
}

void emulated_follows(void) { running->follows = true; }

void emulated_launch(const emulated_kernel *what, unsigned blocks, unsigned threads, int sms, bool is_early,
                     void **args)
{
    if (random_state == 0) {
        const char *seed = getenv("MOET_EMULATED_SEED");
        random_state = (seed ? strtoull(seed, nullptr, 10) : 0) * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
        if (random_state == 0) random_state = 1;
    }
    kernel = what;
    kernel_args = args;
    must_follow = is_early;
    blockDim = {threads, 1, 1};
    gridDim = {blocks, 1, 1};
    if (blocks == 0 || threads == 0 || threads > (unsigned)what->threads)
        stop("%u blocks of %u threads, of %d at most", blocks, threads, what->threads);
    const unsigned most = (unsigned)(sms * what->blocks), slots = blocks < most ? blocks : most;
    const unsigned stride = (threads + 31) / 32 * 32;
    stacks_grow((size_t)slots * stride);
    all_fibers.resize((size_t)slots * stride);
    in_place = nullptr;
    resident.resize(slots);
    unsigned next = 0, idle = 0;
    for (block &b : resident) b.is_running = false, b.fibers = all_fibers.data() + (&b - resident.data()) * stride;
    for (;;) {
        bool is_over = true, has_run = false;
        const unsigned first = draw(slots);
        has_progress = false;
        for (unsigned i = 0; i < slots; i++) {
            block *b = &resident[(i + first) % slots];
            if (!b->is_running && next < blocks) block_begin(b, next++);
            if (!b->is_running) continue;
            is_over = false;
            has_run |= block_turn(b);
        }
        if (is_over) break;
        if (!has_run) stuck();
        idle = has_progress ? 0 : idle + 1;
        if (idle > IDLE_ROUNDS)
            usleep(SLEEP_US); /* ranks may be more than processors */
        else if (idle > 0)
            sched_yield();
    }
}
