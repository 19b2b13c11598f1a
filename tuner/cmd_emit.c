/* moe-tune emit: a table folder from a database. */
#include "command.h"
#include "emit.h"
#include "output.h"
#include "rerun.h"
#include "store.h"

typedef struct emit_options {
    const char *db, *out;
    const char *rerun; /* on which device; NULL: none */
    moet_emit_options emit;
    moet_output_format format;
} emit_options;

enum { OPTION_DB = 256, OPTION_OUT, OPTION_DEVICE, OPTION_FORMAT, OPTION_ALL_WINNERS, OPTION_SKEW, OPTION_BITS, OPTION_RERUN };

static const struct argp_option options_table[] = {
    {"db", OPTION_DB, "FILE", 0, "database of moe-tune sweep (default moe-tune.db)", 0},
    {"out", OPTION_OUT, "DIR", 0, "folder to write: new, empty, or a table to replace", 0},
    {"device", OPTION_DEVICE, "TEXT", 0, "only devices whose key holds TEXT (default: all in the database)", 0},
    {"all-winners", OPTION_ALL_WINNERS, NULL, 0,
     "every point's own winner, instead of the fewest configurations that are as good", 0},
    {"skew", OPTION_SKEW, "LIST", 0, "only points of these skews, as they are in workloads: balanced, zipf, zipf:1...", 0},
    {"bits", OPTION_BITS, "CLASS", 0,
     "only configurations with equal bits: seq, which training's GEMMs without split-K have, or a family, whose own", 0},
    {"rerun", OPTION_RERUN, "SPEC", 0,
     "before, run winners and defaults again on this device (auto, host, cuda or cuda:N), each after two seconds of load", 0},
    {"format", OPTION_FORMAT, "FORMAT", 0, "of the summary: text, csv or json (default text)", 0},
    {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    emit_options *options = state->input;
    switch (key) {
    case OPTION_DB:
        options->db = argument;
        return 0;
    case OPTION_OUT:
        options->out = argument;
        return 0;
    case OPTION_DEVICE:
        options->emit.device = argument;
        return 0;
    case OPTION_ALL_WINNERS:
        options->emit.all_winners = true;
        return 0;
    case OPTION_SKEW:
        moet_text_list_release(&options->emit.skews);
        moet_command_check(state, moet_parse_texts(argument, "--skew", &options->emit.skews));
        return 0;
    case OPTION_BITS:
        options->emit.bits = argument;
        return 0;
    case OPTION_RERUN:
        options->rerun = argument;
        return 0;
    case OPTION_FORMAT:
        moet_command_check(state, moet_output_format_parse(argument, &options->format));
        return 0;
    case ARGP_KEY_END:
        if (!options->out) argp_error(state, "--out DIR is missing");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* rerun NULL: nothing was. */
static moet_status print_summary(const emit_options *options, const moet_emitted *emitted, const moet_rerun *rerun)
{
    static const moet_output_column columns[] = {
        {"table", MOET_OUTPUT_TEXT, 0},     {"devices", MOET_OUTPUT_INTEGER, 0}, {"problems", MOET_OUTPUT_INTEGER, 0},
        {"points", MOET_OUTPUT_INTEGER, 0}, {"entries", MOET_OUTPUT_INTEGER, 0}, {"cubins", MOET_OUTPUT_INTEGER, 0},
        {"ep_points", MOET_OUTPUT_INTEGER, 0},
        {"configs", MOET_OUTPUT_INTEGER, 0}, {"of_winners", MOET_OUTPUT_INTEGER, 0},
        {"mean_regret_pct", MOET_OUTPUT_REAL, 2}, {"most_regret_pct", MOET_OUTPUT_REAL, 2},
        {"bits", MOET_OUTPUT_TEXT, 0}, {"bits_cost_pct", MOET_OUTPUT_REAL, 2}, {"bits_worst_pct", MOET_OUTPUT_REAL, 2},
        {"bits_left_out", MOET_OUTPUT_INTEGER, 0},
        {"rerun", MOET_OUTPUT_INTEGER, 0},  {"reranked", MOET_OUTPUT_INTEGER, 0},
        {"changed", MOET_OUTPUT_BOOL, 0},   {"hash", MOET_OUTPUT_TEXT, 0},
    };
    moet_output *out = NULL;
    MOET_TRY(moet_output_create(stdout, options->format, columns, MOET_COUNT_OF(columns), &out));
    moet_output_text(out, options->out);
    moet_output_integer(out, emitted->devices);
    moet_output_integer(out, emitted->problems);
    moet_output_integer(out, emitted->points);
    moet_output_integer(out, emitted->entries);
    moet_output_integer(out, emitted->cubins);
    moet_output_integer(out, emitted->ep_points);
    moet_output_integer(out, emitted->configs);
    moet_output_integer(out, emitted->winner_configs);
    moet_output_real(out, 100 * emitted->mean_regret);
    moet_output_real(out, 100 * emitted->most_regret);
    moet_output_text(out, options->emit.bits);
    if (options->emit.bits) {
        moet_output_real(out, 100 * (emitted->bits_cost.geomean - 1));
        moet_output_real(out, 100 * (emitted->bits_cost.worst - 1));
        moet_output_integer(out, emitted->bits_cost.left_out);
    } else {
        for (int32_t i = 0; i < 3; i++) moet_output_none(out);
    }
    if (rerun) {
        moet_output_integer(out, rerun->entries);
        moet_output_integer(out, rerun->reranked);
    } else {
        for (int32_t i = 0; i < 2; i++) moet_output_none(out);
    }
    moet_output_bool(out, emitted->changed);
    moet_output_text(out, emitted->hash);
    return moet_output_finish(out);
}

static void note_bits(const char *bits, const moet_bits_cost *cost)
{
    moet_command_note("bits %s: %.4f times the time of the winners of all (geomean; %.4f at worst), of %d winners, %d of "
                      "them with other bits",
                      bits, cost->geomean, cost->worst, cost->points, cost->other);
    if (cost->left_out > 0)
        moet_command_note("%d winners are left out, for want of a trial with these bits: other points, or the default, answer there",
                          cost->left_out);
}

static const struct argp argp = {
    .options = options_table,
    .parser = parse_option,
    .doc = MOET_COMMAND_DOC("Writes the winners as a table: a folder that libmoet loads.",
                            "moe-tune emit --db moe-tune.db --out table",
                            "The same database makes the same bytes. Of each problem the table takes as few "
                            "configurations as are within max(1 %, noise) of the fastest at every tuned point: few "
                            "kernels, and choices that hold between the points; configs of of_winners says how few. "
                            "A table in the folder is replaced whole, and "
                            "its hash kept as the new "
                            "one's parent; moe-tune diff OLD NEW shows what changed. With --rerun: what ranks "
                            "otherwise is told, and is exit code 4; something wrong is 3, and nothing is written. The "
                            "table is the database's all the same."),
};

static int run_emit(int argc, char **argv)
{
    emit_options options = {.db = "moe-tune.db"};
    int code = moet_command_parse(&argp, argc, argv, &options);
    if (code != MOET_EXIT_OK) return code;
    moet_store *store = NULL;
    moet_emitted emitted;
    moet_rerun rerun = {0};
    moet_status status = moet_store_open(options.db, MOET_STORE_READ, &store);
    if (status == MOET_OK && options.rerun)
        status = moet_rerun_winners(store, &options.emit, options.rerun, &rerun);
    if (status == MOET_OK) status = moet_emit(store, options.out, &options.emit, &emitted);
    if (status == MOET_OK && options.emit.bits) note_bits(options.emit.bits, &emitted.bits_cost);
    if (status == MOET_OK && emitted.suspect_defaults > 0)
        moet_command_note(
            "%d winners stand where the default was wrong at another workload of the problem: a launch that no "
            "point is near runs it all the same (moe-tune show --trials)",
            emitted.suspect_defaults);
    if (status == MOET_OK) status = print_summary(&options, &emitted, options.rerun ? &rerun : NULL);
    moet_store_close(store);
    moet_text_list_release(&options.emit.skews);
    code = moet_command_fail(status);
    if (code == MOET_EXIT_OK && rerun.reranked > 0) {
        moet_command_note("%d of %d winners rank otherwise under load; the table has them all the same. To measure "
                          "everything of theirs again: moe-tune sweep --retune",
                          rerun.reranked, rerun.entries);
        code = MOET_EXIT_SLOWER;
    }
    return code;
}

const moet_command moet_command_emit = {
    .name = "emit",
    .summary = "write the winners as a table that libmoet loads",
    .example = "moe-tune emit --db moe-tune.db --out table",
    .run = run_emit,
    .argp = &argp,
};
