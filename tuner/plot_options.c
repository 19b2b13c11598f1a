#include "plot_options.h"

#include "plot.h"

/* Above those of the commands. */
enum option_key { KEY_DEVICE = 2048, KEY_BENCH, KEY_PEERS, KEY_REGRET };

static const struct argp_option options[] = {
    {.name = "device", .key = KEY_DEVICE, .arg = "TEXT", .doc = "Of several devices the one whose key has TEXT"},
    {.name = "bench",
     .key = KEY_BENCH,
     .arg = "FILE",
     .doc = "What `moe-tune bench --with-default` printed, for our times beside the peers'"},
    {.name = "peers", .key = KEY_PEERS, .arg = "FILE", .doc = "What bench/peers/peers.py printed; may be given again"},
    {.name = "regret",
     .key = KEY_REGRET,
     .arg = "FILE",
     .doc = "What `moe-tune regret --format json` printed; several tables beside each other, up to 8"},
    {0}};

/* Adds a file to a list of at most MOET_PLOT_MAX_FILES. */
static void add_file(const char **files, int32_t *count, const char *file, const char *option, struct argp_state *state)
{
    if (*count == MOET_PLOT_MAX_FILES) argp_error(state, "more than %d times --%s", MOET_PLOT_MAX_FILES, option);
    files[(*count)++] = file;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    moet_plot_sources *s = state->input;
    switch (key) {
    case KEY_DEVICE:
        s->device = arg;
        return 0;
    case KEY_BENCH:
        s->bench = arg;
        return 0;
    case KEY_PEERS:
        add_file(s->peers, &s->peers_count, arg, "peers", state);
        return 0;
    case KEY_REGRET:
        add_file(s->regrets, &s->regret_count, arg, "regret", state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp moet_plot_sources_argp = {options, parse_option, NULL, NULL, NULL, NULL, NULL};
