#include "label.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* Whether the comma-separated list holds this field as a whole. */
static bool holds_field(const char *list, const char *field, size_t length)
{
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        if (n == length && memcmp(at, field, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

void moet_label_problem(const char *key, char *text)
{
    moet_problem problem, plain;
    char usual[MOET_KEY_SIZE], own[MOET_KEY_SIZE];
    snprintf(own, sizeof own, "%.*s", (int)moet_store_problem_length(key), key); /* without tokens */
    if (moet_problem_parse(own, &problem) != MOET_OK) {
        snprintf(text, MOET_KEY_SIZE, "%s", key);
        return;
    }
    /* Same op, other shape: of its fields only the usual choices are shared with the key. */
    moet_problem_init(&plain, problem.op, 0, 0, 0);
    moet_problem_format(&plain, usual);
    size_t used = 0;
    for (const char *at = key; *at;) {
        size_t n = strcspn(at, ",");
        bool op = at == key;
        if (op) at += strlen("op="), n -= strlen("op=");
        if (op || !holds_field(usual, at, n))
            used += (size_t)snprintf(text + used, MOET_KEY_SIZE - used, "%s%.*s", used ? " " : "", (int)n, at);
        at += n + (at[n] == ',');
    }
}

/* The number behind name in a device key, 0 if there is none. */
static long number_of(const char *key, const char *name)
{
    const char *at = strstr(key, name);
    return at ? strtol(at + strlen(name), NULL, 10) : 0;
}

void moet_label_device(const char *key, char *text)
{
    const char *name = strstr(key, ",name="), *end = name ? strstr(name, ",cc=") : NULL;
    if (!end) {
        snprintf(text, MOET_DEVICE_KEY_SIZE, "%s", key);
        return;
    }
    bool host = strncmp(key, "backend=host,", 13) == 0;
    long power_w = number_of(end, ",power_w=");
    char power[32] = "";
    if (power_w > 0) snprintf(power, sizeof power, ", %ld W", power_w);
    snprintf(text, MOET_DEVICE_KEY_SIZE, "%.*s (%ld %s%s)", (int)(end - name - 6), name + 6, number_of(end, ",sms="),
             host ? "threads" : "SMs", power);
}
