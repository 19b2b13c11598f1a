/* progress.c: see progress.h. */
#include "progress.h"

#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../bench/bench.h"

#define REDRAW_NS 200000000LL
#define PLAIN_NS 5000000000LL
#define LINE_SIZE 512
#define DEFAULT_WIDTH 80
#define LEAST_MEASURED 0.2 /* units from which a time left is foretold */

void moet_progress_begin(moet_progress *progress, FILE *stream, double total)
{
    *progress = (moet_progress){.stream = stream, .total = total, .begin_ns = moet_clock_ns()};
    pthread_mutex_init(&progress->lock, NULL);
    progress->is_terminal = isatty(fileno(stream)) == 1;
}

void moet_progress_time(double seconds, char *text)
{
    int64_t whole = seconds < 0 ? 0 : seconds > 1e7 ? 10000000 : (int64_t)(seconds + 0.5);
    if (whole < 100) {
        snprintf(text, MOET_TIME_TEXT_SIZE, "%llds", (long long)whole);
    } else if (whole < 6000) {
        snprintf(text, MOET_TIME_TEXT_SIZE, "%lldm%02llds", (long long)(whole / 60), (long long)(whole % 60));
    } else {
        snprintf(text, MOET_TIME_TEXT_SIZE, "%lldh%02lldm", (long long)(whole / 3600), (long long)(whole % 3600 / 60));
    }
}

static int32_t terminal_width(FILE *stream)
{
    struct winsize size;
    bool known = ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 20;
    return known ? size.ws_col : DEFAULT_WIDTH;
}

/* ", about 3m20s left", "" while nothing is known. */
static void format_left(const moet_progress *progress, double done, int64_t now_ns, char *text, size_t size)
{
    double measured = done - progress->skipped;
    text[0] = '\0';
    if (progress->total <= 0 || measured < LEAST_MEASURED) {
        return;
    }
    char time[MOET_TIME_TEXT_SIZE];
    moet_progress_time((double)(now_ns - progress->begin_ns) / 1e9 * (progress->total - done) / measured, time);
    snprintf(text, size, ", about %s left", time);
}

static void draw(moet_progress *progress, double done, const char *what)
{
    int64_t now_ns = moet_clock_ns();
    int64_t interval_ns = progress->is_terminal ? REDRAW_NS : PLAIN_NS;
    if (progress->drawn_ns != 0 && now_ns - progress->drawn_ns < interval_ns) {
        return;
    }
    progress->drawn_ns = now_ns;
    char left[64], line[2 * LINE_SIZE];
    format_left(progress, done, now_ns, left, sizeof left);
    snprintf(line, sizeof line, "[%.0f/%.0f] %s%s", (double)(int64_t)done, progress->total, what, left);
    if (!progress->is_terminal) {
        fprintf(progress->stream, "%s\n", line);
        return;
    }
    fprintf(progress->stream, "\r\033[K%.*s", terminal_width(progress->stream) - 1, line);
    fflush(progress->stream);
    progress->is_drawn = true;
}

void moet_progress_update(moet_progress *progress, double done, const char *format, ...)
{
    char what[LINE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    pthread_mutex_lock(&progress->lock);
    draw(progress, done, what);
    pthread_mutex_unlock(&progress->lock);
}

void moet_progress_skip(moet_progress *progress, double units)
{
    pthread_mutex_lock(&progress->lock);
    progress->skipped += units;
    pthread_mutex_unlock(&progress->lock);
}

void moet_progress_clear(moet_progress *progress)
{
    pthread_mutex_lock(&progress->lock);
    if (progress->is_drawn) {
        fputs("\r\033[K", progress->stream);
        fflush(progress->stream);
        progress->is_drawn = false;
        progress->drawn_ns = 0;
    }
    pthread_mutex_unlock(&progress->lock);
}

void moet_progress_end(moet_progress *progress)
{
    moet_progress_clear(progress);
    pthread_mutex_destroy(&progress->lock);
}
