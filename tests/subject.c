#include "subject.h"

#include "configs.h"

/* ---- buffers ---- */

void test_buffer_create(moet_device *device, test_buffer *buffer, const void *content, size_t size_bytes)
{
    void *memory;
    buffer->size_bytes = size_bytes;
    TEST_OK(device->backend->alloc(device, size_bytes + 2 * TEST_GUARD_BYTES, &memory));
    buffer->memory = memory;
    TEST_OK(device->backend->fill(device, memory, TEST_POISON, size_bytes + 2 * TEST_GUARD_BYTES));
    if (content) TEST_OK(device->backend->upload(device, buffer->memory + TEST_GUARD_BYTES, content, size_bytes));
}

void test_buffer_destroy(moet_device *device, test_buffer *buffer)
{
    device->backend->free(device, buffer->memory);
    *buffer = (test_buffer){0};
}

void *test_buffer_inside(const test_buffer *buffer) { return buffer->memory + TEST_GUARD_BYTES; }

void test_output_create(moet_device *device, test_output *output, size_t size_bytes)
{
    test_buffer_create(device, &output->buffer, NULL, size_bytes);
    output->raw = test_allocate(size_bytes + 2 * TEST_GUARD_BYTES);
}

void test_output_destroy(moet_device *device, test_output *output)
{
    test_buffer_destroy(device, &output->buffer);
    free(output->raw);
    output->raw = NULL;
}

/* ---- numbers ---- */

bool test_same_number(uint16_t got, uint16_t want)
{
    const bool is_nan = (want & 0x7fff) > 0x7f80 && (got & 0x7fff) > 0x7f80;
    return got == want || (is_nan && got != (TEST_POISON << 8 | TEST_POISON));
}

static test_class class_of(uint16_t bits)
{
    const uint16_t size = bits & 0x7fff;
    if (size >= 0x7f80) return size > 0x7f80 ? TEST_NAN : TEST_INFINITE;
    return bits == 0x8000 ? TEST_NEGATIVE_ZERO : size > 0 && size < 0x80 ? TEST_DENORMAL : TEST_USUAL;
}

void test_classes_count(const uint16_t *bits, int64_t count, int64_t counts[TEST_CLASS_COUNT])
{
    for (int64_t i = 0; i < count; i++) counts[class_of(bits[i])]++;
}

void test_classes_check(const int64_t counts[TEST_CLASS_COUNT], int64_t least)
{
    static const char *const names[TEST_CLASS_COUNT] = {
#define MOET_X(name, text) text,
        TEST_CLASS_TABLE(MOET_X)
#undef MOET_X
    };
    for (int32_t i = 0; i < TEST_CLASS_COUNT; i++) {
        if (counts[i] < least)
            test_fail("%s: %lld met, at least %lld wanted", names[i], (long long)counts[i], (long long)least);
    }
}

/* ---- a config ---- */

void test_kernel_release(test_kernel *kernel)
{
    for (int32_t i = 0; i < kernel->count; i++) moet_cubin_release(&kernel->cubins[i]);
    kernel->count = 0;
}

/* What the config compiles, into sources[MOET_MAX_CUBINS]; the number. */
static int32_t gather_sources(const test_subject *s, moet_source *sources)
{
    const moet_family *family = s->config->family;
    const moet_device_info *info = &s->device->info;
    moet_source source;
    int32_t n = 0;
    if (!family->source) return 0;
    for (; family->source(s->problem, s->config, info->cc_major, info->cc_minor, n, &source); n++) {
        if (n == MOET_MAX_CUBINS) test_fail("%s: more than %d sources", s->config_text, n);
        sources[n] = source;
    }
    return n;
}

static bool is_kept(const test_kernel *kernel, const moet_source *sources, int32_t count)
{
    if (count == 0 || kernel->count != count) return false;
    for (int32_t i = 0; i < count; i++) {
        if (!test_same_source(&sources[i], &kernel->sources[i])) return false;
    }
    return true;
}

/* A family lists its kernels in the order of its sources, all of them. */
static void keep_kernels(const test_subject *s, const moet_source *sources, int32_t count)
{
    const moet_family *family = s->config->family;
    const moet_cubin *list[MOET_MAX_CUBINS];
    int32_t listed = family->cubins ? family->cubins(s->state, list) : 0;
    if (listed != count) test_fail("%s: %d sources, %d cubins", s->config_text, count, listed);
    test_kernel_release(s->kernel);
    for (; s->kernel->count < count; s->kernel->count++) {
        TEST_OK(moet_cubin_copy(list[s->kernel->count], &s->kernel->cubins[s->kernel->count]));
        s->kernel->sources[s->kernel->count] = sources[s->kernel->count];
    }
}

int32_t test_few_sms(int64_t nth) { return nth & 1 ? 4 : 2; }

bool test_subject_open(test_subject *s, char *why)
{
    const moet_family *family = s->config->family;
    moet_source sources[MOET_MAX_CUBINS];
    moet_prepare_args args = {.device = s->device,
                              .problem = s->problem,
                              .config = s->config,
                              .max_rows = s->max_rows,
                              .max_sms = s->max_sms,
                              .device_counts = s->on_device};
    moet_config_format(s->config, s->config_text);
    int32_t source_count = gather_sources(s, sources);
    if (is_kept(s->kernel, sources, source_count)) {
        args.cubin_count = source_count;
        for (int32_t i = 0; i < source_count; i++) args.cubins[i] = &s->kernel->cubins[i];
    }
    if (s->max_sms) snprintf(s->config_text + strlen(s->config_text), 32, " on %d SMs at most", s->max_sms);
    moet_status status = family->prepare(&args, &s->state);
    if (status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND) {
        snprintf(why, MOET_REASON_SIZE, "%.250s", moet_last_error());
        if (!why[0]) test_fail("%s: refused without a reason", s->config_text);
        return false;
    }
    if (status != MOET_OK) test_fail("%s (%s): prepare: %s", s->config_text, s->label, moet_last_error());
    if (args.cubin_count == 0) keep_kernels(s, sources, source_count);
    TEST_OK(s->device->backend->stream_create(s->device, &s->stream));
    size_t size_bytes = family->workspace_bytes(&args);
    if (size_bytes) {
        TEST_OK(s->device->backend->alloc(s->device, size_bytes, &s->workspace));
        TEST_OK(s->device->backend->fill(s->device, s->workspace, TEST_POISON, size_bytes)); /* whatever was there */
    }
    return true;
}

void test_subject_close(test_subject *s)
{
    s->config->family->release(s->state);
    s->device->backend->free(s->device, s->workspace);
    s->device->backend->stream_destroy(s->device, s->stream);
    s->state = s->workspace = s->stream = NULL;
}

/* All of raw[from .. from + count) must be poison. */
static void check_untouched(const test_subject *s, const uint8_t *raw, int64_t rows, size_t from, size_t count)
{
    const uint8_t *at = raw + from;
    if (at[0] == TEST_POISON && memcmp(at, at + 1, count - 1) == 0) return;
    size_t i = 0;
    while (at[i] == TEST_POISON) i++;
    test_fail("%s (%s, %lld rows, counts on the %s): byte %lld from the start of out was written", s->config_text,
              s->label, (long long)rows, s->on_device ? "device" : "host", (long long)(from + i) - TEST_GUARD_BYTES);
}

void test_subject_launch(const test_subject *s, const void *x, const void *w, const void *bias, const int32_t *counts,
                         int64_t rows, const test_output *out, uint16_t *bits)
{
    const moet_backend *backend = s->device->backend;
    const size_t whole_bytes = out->buffer.size_bytes + 2 * TEST_GUARD_BYTES;
    const size_t used_bytes = (size_t)(rows * moet_problem_n(s->problem)) * sizeof *bits;
    moet_family_launch_args args = {.x = x,
                                    .w = w,
                                    .bias = bias,
                                    .out = test_buffer_inside(&out->buffer),
                                    .counts = counts,
                                    .counts_on_device = s->on_device,
                                    .rows = s->on_device ? s->max_rows : rows,
                                    .workspace = s->workspace,
                                    .stream = s->stream};
    TEST_OK(backend->fill(s->device, out->buffer.memory, TEST_POISON, whole_bytes));
    moet_status status = s->config->family->launch(s->state, &args);
    if (status == MOET_OK) status = backend->stream_synchronize(s->device, s->stream);
    if (status != MOET_OK) test_fail("%s (%s): %s", s->config_text, s->label, moet_last_error());
    TEST_OK(backend->download(s->device, out->raw, out->buffer.memory, whole_bytes));
    check_untouched(s, out->raw, rows, 0, TEST_GUARD_BYTES);
    check_untouched(s, out->raw, rows, TEST_GUARD_BYTES + used_bytes,
                    out->buffer.size_bytes - used_bytes + TEST_GUARD_BYTES);
    memcpy(bits, out->raw + TEST_GUARD_BYTES, used_bytes);
}
