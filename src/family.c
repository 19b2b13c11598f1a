#include "family.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A test program may have more families: MOET_MORE_FAMILIES is the file of their lines. */
#define MOET_FAMILY(name) extern const moet_family moet_family_##name;
#include "families.def"
#ifdef MOET_MORE_FAMILIES
#include MOET_MORE_FAMILIES
#endif
#undef MOET_FAMILY

const moet_family *const moet_families[] = {
#define MOET_FAMILY(name) &moet_family_##name,
#include "families.def"
#ifdef MOET_MORE_FAMILIES
#include MOET_MORE_FAMILIES
#endif
#undef MOET_FAMILY
    NULL,
};

const moet_family *moet_family_find(const char *name)
{
    for (int32_t i = 0; moet_families[i]; i++) {
        if (strcmp(moet_families[i]->name, name) == 0) return moet_families[i];
    }
    return NULL;
}

bool moet_family_serves(const moet_family *family, moet_op op) { return (op == MOET_OP_FFN) == (family->gemm != NULL); }

moet_status moet_family_validator(const moet_family *family, char *text)
{
    text[0] = '\0';
    return family->validator ? family->validator(text) : MOET_OK;
}

/* ---- configurations ---- */

static int32_t find_param(const moet_family *family, const char *name, size_t length)
{
    for (int32_t i = 0; i < family->param_count; i++) {
        if (strlen(family->params[i].name) == length && memcmp(family->params[i].name, name, length) == 0) return i;
    }
    return -1;
}

static int32_t find_value(const moet_param *param, const char *text, size_t length)
{
    for (int32_t i = 0; param->values[i]; i++) {
        if (strlen(param->values[i]) == length && memcmp(param->values[i], text, length) == 0) return i;
    }
    return -1;
}

int32_t moet_family_param(const moet_family *family, const char *name)
{
    int32_t param = find_param(family, name, strlen(name));
    assert(param >= 0);
    return param;
}

const char *moet_config_text(const moet_config *config, int32_t param)
{
    return config->family->params[param].values[config->value[param]];
}

int32_t moet_config_number(const moet_config *config, int32_t param)
{
    return (int32_t)strtol(moet_config_text(config, param), NULL, 10);
}

void moet_config_set(moet_config *config, const char *name, const char *value)
{
    int32_t param = moet_family_param(config->family, name);
    int32_t index = find_value(&config->family->params[param], value, strlen(value));
    assert(index >= 0);
    config->value[param] = (int16_t)index;
}

static bool is_left_out(const moet_family *family, int32_t param)
{
    return family->params[param].search == MOET_SEARCH_LISTED;
}

void moet_config_format(const moet_config *config, char *text)
{
    const moet_family *family = config->family;
    size_t used = (size_t)snprintf(text, MOET_CONFIG_SIZE, "%s", family->name);
    for (int32_t i = 0; i < family->param_count; i++) {
        if (is_left_out(family, i) && config->value[i] == 0) continue;
        used += (size_t)snprintf(text + used, MOET_CONFIG_SIZE - used, "%c%s=%s", i ? ',' : ':', family->params[i].name,
                                 moet_config_text(config, i));
        assert(used < MOET_CONFIG_SIZE);
    }
}

moet_status moet_config_parse(const char *text, moet_config *config)
{
    char name[64];
    size_t length = strcspn(text, ":");
    if (length >= sizeof name) return moet_fail(MOET_MALFORMED, "config '%.100s': no such kernel family", text);
    memcpy(name, text, length);
    name[length] = '\0';
    moet_config result = {.family = moet_family_find(name)};
    if (!result.family)
        return moet_fail(MOET_NOT_FOUND, "config '%.100s': this build has no kernel family '%s'", text, name);

    bool seen[MOET_MAX_PARAMS] = {false};
    const char *at = text + length;
    while (*at) {
        at++; /* ':' or ',' */
        size_t key_length = strcspn(at, "=,");
        int32_t param = at[key_length] == '=' ? find_param(result.family, at, key_length) : -1;
        if (param < 0 || seen[param])
            return moet_fail(MOET_MALFORMED, "config '%.100s': '%.*s' is %s of %s", text, (int)key_length, at,
                             param < 0 ? "no parameter" : "a repeated parameter", name);
        seen[param] = true;
        at += key_length + 1;
        size_t value_length = strcspn(at, ",");
        int32_t value = find_value(&result.family->params[param], at, value_length);
        if (value < 0)
            return moet_fail(MOET_MALFORMED, "config '%.100s': %s has no value '%.*s'", text,
                             result.family->params[param].name, (int)value_length, at);
        result.value[param] = (int16_t)value;
        at += value_length;
    }
    for (int32_t i = 0; i < result.family->param_count; i++) {
        if (!seen[i] && !is_left_out(result.family, i))
            return moet_fail(MOET_MALFORMED, "config '%.100s': parameter %s is missing", text,
                             result.family->params[i].name);
    }
    *config = result;
    return MOET_OK;
}

bool moet_config_equal(const moet_config *a, const moet_config *b)
{
    if (a->family != b->family || a->gathers != b->gathers || a->scatters != b->scatters || a->chains != b->chains)
        return false;
    for (int32_t i = 0; i < a->family->param_count; i++) {
        if (a->value[i] != b->value[i]) return false;
    }
    return true;
}

void moet_config_first(const moet_family *family, moet_config *config)
{
    assert(family->param_count <= MOET_MAX_PARAMS);
    *config = (moet_config){.family = family};
}

bool moet_config_next(moet_config *config)
{
    /* An odometer: the last parameter turns fastest. */
    for (int32_t i = config->family->param_count - 1; i >= 0; i--) {
        if (config->family->params[i].search == MOET_SEARCH_LISTED) continue;
        if (config->family->params[i].values[++config->value[i]]) return true;
        config->value[i] = 0;
    }
    return false;
}

/* ---- what applies ---- */

bool moet_family_accepts(const moet_family *family, const moet_problem *problem, const moet_device_info *device,
                         char *why)
{
    if (strcmp(family->backend, device->backend) != 0)
        return moet_refuse(why, "%s runs on the %s backend, the device is %s", family->name, family->backend,
                           device->backend);
    if (problem->op != MOET_OP_FFN && problem->activation != MOET_ACTIVATION_NONE && !family->fuses_activation)
        return moet_refuse(why, "%s has no fused activation", family->name);
    /* Inside a path an up GEMM may have its activation, which by itself is no problem to be served. */
    const moet_problem bare = problem->op == MOET_OP_UP ? moet_problem_gemm(problem, MOET_OP_UP) : *problem;
    if (moet_problem_validate(&bare) != MOET_OK) return moet_refuse(why, "%s", moet_last_error());
    if (problem->x_dtype != MOET_DTYPE_BF16 || problem->w_dtype != MOET_DTYPE_BF16 ||
        problem->out_dtype != MOET_DTYPE_BF16 || problem->scales != MOET_SCALES_NONE)
        return moet_refuse(why, "%s serves BF16 without scales only", family->name);
    if (!moet_family_serves(family, problem->op))
        return moet_refuse(why, "%s serves %s", family->name,
                           family->gemm ? "op ffn only" : "single GEMMs, not op ffn");
    return true;
}

moet_status moet_default_config(const moet_problem *problem, int64_t rows_hint, bool device_counts,
                                const moet_device_info *device, moet_config *config)
{
    char reasons[768] = "";
    size_t used = 0;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        if (strcmp(family->backend, device->backend) != 0 || !moet_family_serves(family, problem->op)) continue;
        moet_config candidate = {.family = family};
        char why[MOET_REASON_SIZE];
        family->default_config(problem, rows_hint, device, &candidate);
        moet_traits traits = family->traits(problem, &candidate);
        if (device_counts ? !traits.device_counts : !traits.host_counts)
            moet_refuse(why, "takes no counts from %s memory", device_counts ? "device" : "host");
        else if (family->applicable(problem, &candidate, device, why)) {
            *config = candidate;
            return MOET_OK;
        }
        if (used < sizeof reasons)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: %s", used ? "; " : "", family->name,
                                     why);
    }
    return moet_fail(MOET_UNSUPPORTED, "no kernel family serves this problem on %s (%s)", device->name,
                     used ? reasons : "none is built for this backend");
}
