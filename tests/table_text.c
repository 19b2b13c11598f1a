#include "table_text.h"

#include "../src/module.h"
#include "test.h"

static const char blank_hash[] = "0000000000000000000000000000000000000000000000000000000000000000";

text_winner text_winner_of(const moet_config *config, char config_text[MOET_CONFIG_SIZE], char validator[64],
                           int64_t time_ns)
{
    moet_config_format(config, config_text);
    validator[0] = '\0';
    if (config->family->validator) TEST_OK(config->family->validator(validator));
    return (text_winner){
        .config = config_text, .version = config->family->version, .validator = validator, .time_ns = time_ns};
}

static void write_quoted(FILE *out, const char *name, const char *value)
{
    if (value)
        fprintf(out, "\"%s\":\"%s\",", name, value);
    else
        fprintf(out, "\"%s\":null,", name);
}

static void write_cubins(FILE *out, int32_t version, const text_winner *w)
{
    if (version == 1) {
        assert_null(w->cubins[1].sha256);
        write_quoted(out, "cubin", w->cubins[0].sha256);
        fprintf(out, w->cubins[0].arch ? "\"arch\":\"%s\"" : "\"arch\":null", w->cubins[0].arch);
        return;
    }
    fprintf(out, "\"cubins\":[");
    for (int32_t i = 0; i < MOET_COUNT_OF(w->cubins) && w->cubins[i].sha256; i++)
        fprintf(out, "%s{\"sha256\":\"%s\",\"arch\":\"%s\"}", i ? "," : "", w->cubins[i].sha256, w->cubins[i].arch);
    fprintf(out, "]");
}

static void write_kernel(FILE *out, int32_t version, const text_winner *w)
{
    write_quoted(out, "config", w->config);
    fprintf(out, "\"version\":%d,", w->version);
    write_quoted(out, "validator", w->validator ? w->validator : "");
    write_cubins(out, version, w);
}

static void write_winner(FILE *out, int32_t version, const char *name, const text_winner *w)
{
    if (!w->config) {
        fprintf(out, "\"%s\":null", name);
        return;
    }
    fprintf(out, "\"%s\":{", name);
    write_kernel(out, version, w);
    fprintf(out, ",\"device_counts\":%s,\"time_ns\":%lld,\"noise_ns\":10,\"default_time_ns\":null",
            w->device_counts ? "true" : "false", (long long)w->time_ns);
    for (int32_t i = 0; i < w->other_count; i++)
        fprintf(out, "%s{\"config\":\"%s\",\"time_ns\":%lld}", i ? "," : ",\"others\":[", w->others[i].config,
                (long long)w->others[i].time_ns);
    fputs(w->other_count ? "]}" : w->others ? ",\"others\":[]}" : "}", out);
}

char *text_table(const moet_device *device, const moet_problem *problem, const text_point *points, int32_t point_count,
                 const text_winner *defaults, int32_t default_count)
{
    return text_table_of_version(2, device, problem, points, point_count, defaults, default_count);
}

char *text_table_of_version(int32_t version, const moet_device *device, const moet_problem *problem,
                            const text_point *points, int32_t point_count, const text_winner *defaults,
                            int32_t default_count)
{
    char *text = NULL, key[MOET_KEY_SIZE];
    size_t size;
    const moet_device_info *info = &device->info;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    fprintf(out,
            "{\n\"format\":\"moe-tune table\",\n\"version\":%d,\n\"hash\":\"%s\",\n\"parent\":null,\n\"devices\":[{",
            version, blank_hash);
    write_quoted(out, "key", device->key);
    write_quoted(out, "backend", info->backend);
    write_quoted(out, "name", info->name);
    fprintf(out, "\"cc_major\":%d,\"cc_minor\":%d,\"sm_count\":%d,\"memory_bytes\":%lld,\"power_limit_mw\":%lld,",
            info->cc_major, info->cc_minor, info->sm_count, (long long)info->memory_bytes,
            (long long)info->power_limit_mw);
    write_quoted(out, "partition", info->partition);
    write_quoted(out, "driver", info->driver);
    fprintf(out,
            "\"driver_cuda_version\":%d,\"ceilings\":{\"dense_flops_per_s\":1000,\"copy_bytes_per_s\":2000,"
            "\"read_bytes_per_s\":3000},\n\"rates\":{\"tensor_flops_per_s\":100000000000,"
            "\"l2_bytes_per_s\":100000000000,\"hbm_bytes_per_s\":20000000000,\"store_bytes_per_s\":100000000000,"
            "\"launches_per_s\":100000},\n\"problems\":[{",
            info->driver_cuda_version);
    moet_problem_format(problem, key);
    write_quoted(out, "key", key);
    fprintf(out, "\n\"points\":[");
    for (int32_t i = 0; i < point_count; i++) {
        moet_routing r;
        TEST_OK(moet_routing_summarize(points[i].counts, problem->experts, &r));
        fprintf(out,
                "%s\n{\"workload\":\"test\",\"skew\":\"by hand\",\"rows\":%lld,\"active\":%d,\"max\":%d,\"counts\":[",
                i ? "," : "", (long long)r.rows, r.active, r.max);
        for (int32_t e = 0; e < problem->experts; e++) fprintf(out, "%s%d", e ? "," : "", points[i].counts[e]);
        fprintf(out, "],\n");
        write_winner(out, version, "any", &points[i].any);
        fprintf(out, ",\n");
        write_winner(out, version, "device_counts", &points[i].device_counts);
        fprintf(out, "}");
    }
    fprintf(out, "],\n\"defaults\":[");
    for (int32_t i = 0; i < default_count; i++) {
        fprintf(out, "%s{", i ? "," : "");
        write_kernel(out, version, &defaults[i]);
        fprintf(out, "}");
    }
    fprintf(out, "]}]}]\n}\n");
    assert_int_equal(fclose(out), 0);
    text_rehash(text);
    return text;
}

void text_rehash(char *text)
{
    char *at = strstr(text, "\"hash\":\""), digits[MOET_SHA256_TEXT_SIZE];
    assert_non_null(at);
    at += strlen("\"hash\":\"");
    size_t before = (size_t)(at - text), after = strlen(at) - strlen(blank_hash);
    char *rest = malloc(before + after);
    assert_non_null(rest);
    memcpy(rest, text, before);
    memcpy(rest + before, at + strlen(blank_hash), after);
    moet_sha256_text(rest, before + after, digits);
    memcpy(at, digits, strlen(blank_hash));
    free(rest);
}

char *text_replace(char *text, const char *from, const char *to)
{
    char *at = strstr(text, from);
    if (!at) test_fail("'%s' is not in the table", from);
    size_t size = strlen(text) + strlen(to) + 1;
    char *result = malloc(size);
    assert_non_null(result);
    snprintf(result, size, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    free(text);
    return result;
}

void text_write(const char *folder, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/table.json", folder);
    test_file_write(path, text, strlen(text));
}
