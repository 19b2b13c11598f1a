/* verify: whether a subject computes the right thing, before anything is timed. Outputs are poisoned first; every
 * element is compared with the device's reference kernel, the oracle's elements with the C reference, the guards around
 * the output must be untouched, and a second launch on other workspace contents must give the same bits. */
#include "session.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/reference.h"

__attribute__((format(printf, 3, 4))) static void fail_trial(moet_trial *trial, moet_trial_status status,
                                                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(trial->reason, sizeof trial->reason, format, args);
    va_end(args);
    trial->status = status;
}

/* What the device did with a launch: the trial failed, or the device is lost, or (NO_MEMORY) the bench cannot go on. */
static moet_status fail_launch(moet_bench *bench, moet_trial *trial, moet_status status, const char *what)
{
    fail_trial(trial, MOET_TRIAL_FAILED, "%s: %s", what, moet_last_error());
    return status == MOET_NO_MEMORY ? status : moet_bench_check_device(bench);
}

static moet_status poison(moet_bench *bench, uint8_t workspace_byte)
{
    moet_buffers *b = &bench->buffers;
    MOET_TRY(bench->device->backend->fill(bench->device, b->sets[0].out_block, MOET_POISON,
                                          MOET_FRONT_GUARD_BYTES + b->out_bytes + b->guard_bytes));
    return moet_bench_scribble_workspace(bench, workspace_byte);
}

static moet_status compare(moet_bench *bench, moet_comparison *found)
{
    moet_buffers *b = &bench->buffers;
    return moet_ops_compare(bench->ops, b->sets[0].out, b->reference, b->magnitude, (int64_t)(b->out_bytes / 2),
                            moet_problem_k(&b->problem), bench->stream, found);
}

static int32_t expert_of(const moet_buffers *b, int64_t row, int64_t *row_of_expert)
{
    int32_t e = 0;
    for (; row >= b->counts[e]; e++) row -= b->counts[e];
    *row_of_expert = row;
    return e;
}

/* Says which element is wrong, and how. */
static moet_status describe_wrong(moet_bench *bench, const moet_comparison *found, moet_trial *trial)
{
    moet_buffers *b = &bench->buffers;
    moet_device *device = bench->device;
    int64_t N = moet_problem_n(&b->problem), at = found->first_wrong, expert_row;
    uint16_t got = 0;
    float reference = 0, magnitude = 0;
    MOET_TRY(device->backend->download(device, &got, (const uint16_t *)b->sets[0].out + at, sizeof got));
    MOET_TRY(device->backend->download(device, &reference, b->reference + at, sizeof reference));
    MOET_TRY(device->backend->download(device, &magnitude, b->magnitude + at, sizeof magnitude));
    double bound = moet_reference_bound(moet_problem_k(&b->problem), (double)reference, (double)magnitude);
    if (b->problem.op == MOET_OP_FFN) {
        fail_trial(trial, MOET_TRIAL_WRONG,
                   "%lld of %lld elements are wrong; the first at token %lld, column %lld: %g%s, expected %g +- %.2g",
                   (long long)found->wrong, (long long)(b->out_bytes / 2), (long long)(at / N), (long long)(at % N),
                   (double)moet_bf16_to_float(got), got == 0xffff ? " (never written)" : "", (double)reference, bound);
        return MOET_OK;
    }
    int32_t expert = expert_of(b, at / N, &expert_row);
    fail_trial(trial, MOET_TRIAL_WRONG,
               "%lld of %lld elements are wrong; the first at row %lld (expert %d, its row %lld), column %lld: %g%s, "
               "expected %g +- %.2g",
               (long long)found->wrong, (long long)(b->out_bytes / 2), (long long)(at / N), expert,
               (long long)expert_row, (long long)(at % N), (double)moet_bf16_to_float(got),
               got == 0xffff ? " (never written)" : "", (double)reference, bound);
    return MOET_OK;
}

/* Index of the first byte that is no longer poison, -1 if none. */
static int64_t first_touched(const uint8_t *bytes, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (bytes[i] != MOET_POISON) return (int64_t)i;
    }
    return -1;
}

static moet_status check_guards(moet_bench *bench, moet_trial *trial)
{
    moet_buffers *b = &bench->buffers;
    moet_device *device = bench->device;
    size_t most = b->guard_bytes > MOET_FRONT_GUARD_BYTES ? b->guard_bytes : MOET_FRONT_GUARD_BYTES;
    uint8_t *bytes = malloc(most);
    if (!bytes) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    int64_t touched;
    moet_status status = device->backend->download(device, bytes, b->sets[0].out_block, MOET_FRONT_GUARD_BYTES);
    if (status == MOET_OK && (touched = first_touched(bytes, MOET_FRONT_GUARD_BYTES)) >= 0)
        fail_trial(trial, MOET_TRIAL_WRONG, "memory was written %lld bytes before the output",
                   (long long)(MOET_FRONT_GUARD_BYTES - touched));
    if (status == MOET_OK)
        status = device->backend->download(device, bytes, (const char *)b->sets[0].out + b->out_bytes, b->guard_bytes);
    if (status == MOET_OK && (touched = first_touched(bytes, b->guard_bytes)) >= 0)
        fail_trial(trial, MOET_TRIAL_WRONG, "memory was written past the output, at %lld bytes behind its end",
                   (long long)touched);
    free(bytes);
    return status;
}

static moet_status check_oracle(moet_bench *bench, uint64_t bits, moet_trial *trial)
{
    moet_finding worst;
    for (int32_t i = 0; i < bench->right_count; i++) {
        if (bench->right_bits[i] != bits) continue;
        if (bench->right_error[i] > trial->error) trial->error = bench->right_error[i];
        return MOET_OK;
    }
    MOET_TRY(moet_oracle_check(bench, bench->buffers.sets[0].out, &worst));
    if (worst.error > 1)
        fail_trial(trial, MOET_TRIAL_WRONG,
                   "differs from the C reference at %s %lld, column %d: %g, expected %g +- %.2g",
                   bench->buffers.problem.op == MOET_OP_FFN ? "token" : "row", (long long)worst.row, worst.column,
                   worst.got, worst.expected, worst.bound);
    if (worst.error > trial->error) trial->error = worst.error;
    if (worst.error <= 1 && bench->right_count < MOET_MAX_RIGHT_BITS) {
        bench->right_bits[bench->right_count] = bits;
        bench->right_error[bench->right_count++] = worst.error;
    }
    return MOET_OK;
}

moet_status moet_launch_once(moet_bench *bench, const moet_runner *runner, double *time_us)
{
    moet_device *device = bench->device;
    MOET_TRY(device->backend->event_record(device, bench->begin, bench->stream));
    MOET_TRY(runner->launch(runner->context, 0));
    MOET_TRY(device->backend->event_record(device, bench->end, bench->stream));
    MOET_TRY(device->backend->stream_synchronize(device, bench->stream));
    return device->backend->event_elapsed_us(device, bench->begin, bench->end, time_us);
}

/* The output's bits on x of several scales: two orders of summation that happen to agree on set 0 hardly do so here. No
 * more than bits is asked of it: how right a launch is follows from its operations, which set 0 has shown. */
static moet_status spread_bits(moet_bench *bench, const moet_runner *runner, moet_trial *trial, uint64_t *bits)
{
    moet_comparison found;
    if (!bench->buffers.sets[MOET_SPREAD_SET].x) {
        *bits = 0;
        return MOET_OK;
    }
    MOET_TRY(poison(bench, 0xff));
    moet_status status = runner->launch(runner->context, MOET_SPREAD_SET);
    if (status == MOET_OK) status = bench->device->backend->stream_synchronize(bench->device, bench->stream);
    if (status != MOET_OK) return fail_launch(bench, trial, status, "a launch on x of several scales");
    MOET_TRY(compare(bench, &found)); /* with set 0's reference: only the hash is of these inputs */
    *bits = found.bits_hash;
    return MOET_OK;
}

enum { HASH_DIGITS = 16 }; /* of set 0's bits, ahead of the spread set's */

static void format_bit_class(const moet_bench *bench, uint64_t bits, uint64_t bits_spread, char *text, size_t size)
{
    snprintf(text, size, "%016" PRIx64 "%016" PRIx64 "-%" PRIx64 "s", bits, bits_spread, bench->seed);
}

moet_status moet_verify_launch(moet_bench *bench, const moet_runner *runner, moet_trial *trial, double *call_us)
{
    moet_comparison found;
    MOET_TRY(poison(bench, 0xff));
    moet_status status = moet_launch_once(bench, runner, call_us);
    if (status != MOET_OK) return fail_launch(bench, trial, status, "launch");
    MOET_TRY(compare(bench, &found));
    trial->status = MOET_TRIAL_OK;
    trial->error = found.error;
    if (found.wrong > 0) return describe_wrong(bench, &found, trial);
    MOET_TRY(check_guards(bench, trial));
    if (trial->status == MOET_TRIAL_OK) MOET_TRY(check_oracle(bench, found.bits_hash, trial));
    uint64_t bits_spread = 0;
    if (trial->status == MOET_TRIAL_OK) MOET_TRY(spread_bits(bench, runner, trial, &bits_spread));
    if (trial->status == MOET_TRIAL_OK)
        format_bit_class(bench, found.bits_hash, bits_spread, trial->bit_class, sizeof trial->bit_class);
    return MOET_OK;
}

moet_status moet_verify_again(moet_bench *bench, const moet_runner *runner, moet_trial *trial)
{
    moet_device *device = bench->device;
    const char *what = runner->graph ? "a replayed graph" : "a second launch";
    moet_comparison found;
    char bits[HASH_DIGITS + 1];
    double ignored_us;
    MOET_TRY(poison(bench, 0x00));
    moet_status status = MOET_OK;
    if (runner->graph) {
        status = device->backend->graph_launch(device, runner->graph, bench->stream);
        if (status == MOET_OK) status = device->backend->stream_synchronize(device, bench->stream);
    } else {
        status = moet_launch_once(bench, runner, &ignored_us);
    }
    if (status != MOET_OK) return fail_launch(bench, trial, status, what);
    MOET_TRY(compare(bench, &found));
    if (found.wrong > 0) return describe_wrong(bench, &found, trial);
    snprintf(bits, sizeof bits, "%016" PRIx64, found.bits_hash);
    if (strncmp(bits, trial->bit_class, HASH_DIGITS) != 0)
        fail_trial(trial, MOET_TRIAL_WRONG, "%s differs in bits from the first launch on the same inputs", what);
    return MOET_OK;
}
