/* measure: one sample. On a device with graphs it is one graph of at least 0.6 ms of calls that cycle over the buffer
 * sets, so that weights come from memory and not from a cache, replayed once untimed and once timed, and followed by a
 * pause of a fixed number of cycles, which tells the SM clock. Elsewhere a loop of calls is timed from outside. */
#include "session.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

static const double graph_sample_us = 600;
static const double host_sample_us = 5000;
static const int64_t spin_cycles = 400000;
static const double shortest_call_us = 2; /* no launch on a GPU is shorter; bounds the nodes of a graph */
static const double most_host_calls = 4096;

int64_t moet_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool has_graphs(const moet_bench *bench) { return bench->device->backend->capture_begin != NULL; }

static int32_t choose_calls(const moet_bench *bench, int32_t set_count, bool whole_cycles, double call_us)
{
    if (has_graphs(bench)) {
        double us = fmax(call_us, shortest_call_us);
        int32_t cycle = whole_cycles ? set_count : 1;
        return cycle * (int32_t)fmax(1, ceil(graph_sample_us / (cycle * us)));
    }
    return (int32_t)fmin(most_host_calls, fmax(1, ceil(host_sample_us / fmax(call_us, 1e-3))));
}

static moet_status launch_calls(moet_runner *runner, int32_t calls)
{
    for (int32_t i = 0; i < calls; i++) {
        MOET_TRY(runner->launch(runner->context, runner->next_set));
        runner->next_set = (runner->next_set + 1) % runner->set_count;
    }
    return MOET_OK;
}

void moet_subject_begin_range(const moet_subject *subject)
{
    moet_nvtx_begin(MOET_NVTX_TRIAL, subject->text, subject->index);
}

moet_status moet_runner_prepare(moet_bench *bench, moet_runner *runner, bool capturable, bool whole_cycles,
                                double call_us)
{
    const moet_backend *backend = bench->device->backend;
    runner->calls = choose_calls(bench, runner->set_count, whole_cycles, call_us);
    runner->next_set = 0;
    if (!capturable || !has_graphs(bench)) return MOET_OK;
    void *graph = NULL;
    char why[MOET_REASON_SIZE];
    MOET_TRY(backend->capture_begin(bench->device, bench->stream));
    moet_status status = launch_calls(runner, runner->calls);
    snprintf(why, sizeof why, "%s", moet_last_error()); /* ending a spoilt capture may fail too, and say less */
    moet_status end = backend->capture_end(bench->device, bench->stream, &graph);
    if (status != MOET_OK) {
        if (end == MOET_OK && graph) backend->graph_destroy(bench->device, graph);
        return moet_fail(status, "%s", why);
    }
    if (end != MOET_OK) return end;
    runner->graph = graph;
    return MOET_OK;
}

moet_status moet_runner_sample(moet_bench *bench, moet_runner *runner, int64_t *time_ns, int32_t *sm_mhz)
{
    const moet_backend *backend = bench->device->backend;
    moet_device *device = bench->device;
    double time_us = 0, spin_us = 0;
    if (runner->graph) {
        MOET_TRY(backend->graph_launch(device, runner->graph, bench->stream));
        MOET_TRY(backend->event_record(device, bench->begin, bench->stream));
        MOET_TRY(backend->graph_launch(device, runner->graph, bench->stream));
    } else {
        /* A GPU's clocks follow the load: it gets the whole pass first. A CPU only needs its code and pages. */
        bool whole = has_graphs(bench) || runner->calls < runner->set_count;
        MOET_TRY(launch_calls(runner, whole ? runner->calls : runner->set_count));
        MOET_TRY(backend->event_record(device, bench->begin, bench->stream));
        MOET_TRY(launch_calls(runner, runner->calls));
    }
    MOET_TRY(backend->event_record(device, bench->end, bench->stream));
    if (has_graphs(bench)) {
        MOET_TRY(moet_ops_spin(bench->ops, spin_cycles, bench->stream));
        MOET_TRY(backend->event_record(device, bench->spun, bench->stream));
        MOET_TRY(backend->event_elapsed_us(device, bench->end, bench->spun, &spin_us));
    }
    MOET_TRY(backend->event_elapsed_us(device, bench->begin, bench->end, &time_us));
    *time_ns = (int64_t)llround(time_us * 1e3 / runner->calls);
    *sm_mhz = spin_us > 0 ? (int32_t)lround((double)spin_cycles / spin_us) : 0;
    return MOET_OK;
}

moet_status moet_runner_sustain(moet_bench *bench, moet_runner *runner, int64_t time_ns)
{
    const moet_backend *backend = bench->device->backend;
    const int64_t end_ns = moet_clock_ns() + time_ns;
    do {
        MOET_TRY(runner->graph ? backend->graph_launch(bench->device, runner->graph, bench->stream)
                               : launch_calls(runner, runner->calls));
        MOET_TRY(backend->stream_synchronize(bench->device, bench->stream));
    } while (moet_clock_ns() < end_ns);
    return MOET_OK;
}

void moet_runner_release(moet_bench *bench, moet_runner *runner)
{
    if (runner->graph) bench->device->backend->graph_destroy(bench->device, runner->graph);
    runner->graph = NULL;
}

moet_status moet_bench_launch_profiled(moet_bench *bench, int32_t subject, int32_t warm_up)
{
    moet_subject *s = bench->subjects[subject];
    moet_device *device = bench->device;
    const moet_backend *backend = device->backend;
    if (!s->active) return moet_fail(MOET_INVALID, "bench: %.200s is not there to be launched", s->trial.config);
    for (int32_t i = 0; i < warm_up; i++) MOET_TRY(s->runner.launch(s->runner.context, i % s->runner.set_count));
    MOET_TRY(backend->stream_synchronize(device, bench->stream));
    if (backend->set_profiling) MOET_TRY(backend->set_profiling(device, true));
    moet_subject_begin_range(s);
    moet_status status = moet_nvtx_end(s->runner.launch(s->runner.context, warm_up % s->runner.set_count));
    if (status == MOET_OK) status = backend->stream_synchronize(device, bench->stream);
    moet_status stopped = backend->set_profiling ? backend->set_profiling(device, false) : MOET_OK;
    return status == MOET_OK ? stopped : status;
}
