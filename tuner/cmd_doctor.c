/* moe-tune doctor: what this machine has, what it reaches, what is missing and what that costs. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "../bench/bench.h"
#include "../src/module_cache.h"
#include "command.h"
#include "libraries.h"
#include "output.h"

#define SUMMARY "show devices, libraries, measured ceilings, and what is missing"
#define EXAMPLE "moe-tune doctor"
#define CEILING_ROUNDS 11

typedef struct doctor_arguments {
    const char *device; /* NULL: all */
    bool no_measure;
    moet_output_format format;
} doctor_arguments;

enum option_key { KEY_DEVICE = 256, KEY_NO_MEASURE, KEY_FORMAT };

static const struct argp_option options[] = {
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default: every device)"},
    {.name = "no-measure", .key = KEY_NO_MEASURE, .doc = "Measure no ceilings"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default text)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    doctor_arguments *a = state->input;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_NO_MEASURE:
        a->no_measure = true;
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->format);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

static const moet_output_column columns[] = {
    {"what", MOET_OUTPUT_TEXT, 0},
    {"of", MOET_OUTPUT_TEXT, 0},
    {"value", MOET_OUTPUT_TEXT, 0},
    {"note", MOET_OUTPUT_TEXT, 0},
};

static void print_row(moet_output *out, const char *what, const char *of, const char *value, const char *note)
{
    moet_output_text(out, what);
    moet_output_text(out, of);
    moet_output_text(out, value);
    moet_output_text(out, note[0] != '\0' ? note : NULL);
}

static void print_device(moet_output *out, const char *spec, const moet_device_info *info)
{
    char note[384];
    double gib = (double)info->memory_bytes / (1024.0 * 1024 * 1024);
    if (info->cc_major > 0) {
        snprintf(note, sizeof note, "sm_%d%d, %d SMs, %.1f GiB, %.0f W limit%s%s", info->cc_major, info->cc_minor,
                 info->sm_count, gib, (double)info->power_limit_mw / 1e3, info->partition[0] != '\0' ? ", " : "",
                 info->partition);
    } else {
        snprintf(note, sizeof note, "%d threads, %.1f GiB, %s", info->sm_count, gib,
                 info->partition[0] != '\0' ? info->partition : "no BLAS");
    }
    print_row(out, "device", spec, info->name, note);
}

static moet_status print_ceilings(moet_output *out, const char *spec, moet_device *device)
{
    moet_bench *bench = NULL;
    moet_ceilings ceilings;
    MOET_TRY(moet_bench_create(device, 1, true, &bench));
    moet_status status = moet_bench_ceilings(bench, CEILING_ROUNDS, &ceilings);
    moet_bench_destroy(bench);
    MOET_TRY(status);
    char value[64];
    snprintf(value, sizeof value, "%.4g TFLOP/s", ceilings.dense_flops_per_s / 1e12);
    print_row(out, "ceiling", spec, value, "dense BF16 matrix product, the better layout");
    snprintf(value, sizeof value, "%.4g GB/s", ceilings.copy_bytes_per_s / 1e9);
    print_row(out, "ceiling", spec, value, "memory, copy (read and written bytes)");
    snprintf(value, sizeof value, "%.4g GB/s", ceilings.read_bytes_per_s / 1e9);
    print_row(out, "ceiling", spec, value, "memory, read");
    return MOET_OK;
}

static void print_libraries(moet_output *out, const char *spec, moet_device *device)
{
    moet_libraries libraries;
    moet_libraries_list(device, &libraries);
    for (int32_t i = 0; i < libraries.count; i++) {
        const moet_library_row *row = &libraries.rows[i];
        char text[600];
        if (row->present) {
            snprintf(text, sizeof text, "%s%s%s", row->name, row->version[0] != '\0' ? ": " : "", row->version);
            print_row(out, "library", spec, text, "");
        } else {
            snprintf(text, sizeof text, "%s: %s", row->cost, row->missing);
            print_row(out, "missing", spec, row->name, text);
        }
    }
}

/* Where compiled kernels are kept. */
static void print_cache(moet_output *out)
{
    char folder[PATH_MAX];
    const bool is_writable = moet_module_cache_folder(folder, sizeof folder);
    print_row(out, "cache", "kernels", folder[0] != '\0' ? folder : "none",
              is_writable ? ""
                          : "cannot be written: each process compiles its kernels anew, but for those of a table; "
                            "MOET_CACHE_DIR names another folder");
}

/* One device with all that belongs to it. */
static moet_status examine(moet_output *out, const doctor_arguments *a, const char *spec)
{
    moet_device *device = NULL;
    MOET_TRY(moet_device_open(spec, &device));
    char name[32];
    bool is_host = strcmp(device->backend->name, "host") == 0;
    snprintf(name, sizeof name, is_host ? "%s" : "%s:%d", device->backend->name, device->ordinal);
    print_device(out, name, &device->info);
    if (!a->no_measure) {
        fprintf(stderr, "moe-tune: measuring %s\n", device->info.name);
        moet_status status = print_ceilings(out, name, device);
        if (status != MOET_OK) {
            print_row(out, "missing", name, "ceilings", moet_last_error());
        }
    }
    print_libraries(out, name, device);
    moet_device_close(device);
    return MOET_OK;
}

/* Every device of every backend; *usable counts those that open. */
static void examine_all(moet_output *out, const doctor_arguments *a, int32_t *usable)
{
    for (int32_t i = 0; moet_backends[i] != NULL; i++) {
        const moet_backend *backend = moet_backends[i];
        int32_t count = 0;
        moet_status status = backend->count(&count);
        if (status != MOET_OK) {
            print_row(out, "missing", backend->name, "device", moet_last_error());
        } else if (count == 0) {
            print_row(out, "missing", backend->name, "device", "none found; the other backends serve");
        }
        for (int32_t ordinal = 0; status == MOET_OK && ordinal < count; ordinal++) {
            char spec[32];
            bool is_host = strcmp(backend->name, "host") == 0;
            snprintf(spec, sizeof spec, is_host ? "%s" : "%s:%d", backend->name, ordinal);
            if (examine(out, a, spec) == MOET_OK) {
                ++*usable;
            } else {
                print_row(out, "missing", spec, "device", moet_last_error());
            }
        }
    }
    if (moet_backend_find("cuda") == NULL) {
        print_row(out, "missing", "cuda", "backend",
                  "built without CUDA's headers; a build with a CUDA toolkit (12.5 or later) has it");
    }
}

static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC("Shows devices, the libraries they need with versions, what the devices reach at best, and "
                     "what is missing with what that costs.",
                     EXAMPLE, "Exit codes: 0 at least one device can be used, 1 none can."),
    NULL,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    doctor_arguments a = {0};
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    moet_output *out = NULL;
    int32_t usable = 0;
    moet_status status = moet_output_create(stdout, a.format, columns, MOET_COUNT_OF(columns), &out);
    if (status != MOET_OK) {
        return moet_command_fail(status);
    }
    char program[96];
    snprintf(program, sizeof program, "%s (source %.60s)", MOET_VERSION_TEXT, moet_command_revision());
    print_row(out, "program", "moe-tune", program, "");
    print_cache(out);
    if (a.device != NULL) {
        status = examine(out, &a, a.device);
        usable += status == MOET_OK;
    } else {
        examine_all(out, &a, &usable);
    }
    code = moet_command_fail(status);
    moet_status written = moet_output_finish(out);
    if (code == MOET_EXIT_OK) {
        code = moet_command_fail(written);
    }
    return code == MOET_EXIT_OK && usable == 0 ? MOET_EXIT_FAILED : code;
}

const moet_command moet_command_doctor = {"doctor", SUMMARY, EXAMPLE, run, &argp};
