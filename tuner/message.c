/* message.c: see message.h. */
#include "message.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../bench/bench.h"

#define MAGIC 0x6d6f6574u
#define MOST_POLL_MS 3600000

typedef struct header {
    uint32_t magic, kind;
    uint64_t size_bytes;
} header;

void moet_message_release(moet_message *message)
{
    free(message->bytes);
    *message = (moet_message){0};
}

/* Makes room for size_bytes more; false where there is none. */
static bool reserve(moet_message *message, size_t size_bytes)
{
    if (message->failed || size_bytes > MOET_MESSAGE_MOST - message->size_bytes) {
        message->failed = true;
        return false;
    }
    size_t needed = message->size_bytes + size_bytes, capacity = message->capacity_bytes;
    if (needed <= capacity) {
        return true;
    }
    capacity = 2 * capacity > needed ? 2 * capacity : needed + 256;
    uint8_t *grown = realloc(message->bytes, capacity);
    if (grown == NULL) {
        message->failed = true;
        return false;
    }
    message->bytes = grown;
    message->capacity_bytes = capacity;
    return true;
}

/* ---- writing ---- */

void moet_message_put(moet_message *message, const void *bytes, size_t size_bytes)
{
    if (size_bytes > 0 && reserve(message, size_bytes)) {
        memcpy(message->bytes + message->size_bytes, bytes, size_bytes);
        message->size_bytes += size_bytes;
    }
}

void moet_message_put_int(moet_message *message, int64_t value) { moet_message_put(message, &value, sizeof value); }

void moet_message_put_block(moet_message *message, const void *bytes, size_t size_bytes)
{
    moet_message_put_int(message, (int64_t)size_bytes);
    moet_message_put(message, bytes, size_bytes);
}

void moet_message_put_text(moet_message *message, const char *text)
{
    moet_message_put_block(message, text, strlen(text));
}

/* ---- reading ---- */

/* The next size_bytes in place; NULL where they are missing. */
static const uint8_t *take(moet_message *message, size_t size_bytes)
{
    if (message->failed || size_bytes > message->size_bytes - message->read_bytes) {
        message->failed = true;
        return NULL;
    }
    const uint8_t *at = message->bytes + message->read_bytes;
    message->read_bytes += size_bytes;
    return at;
}

void moet_message_take(moet_message *message, void *bytes, size_t size_bytes)
{
    const uint8_t *at = size_bytes > 0 ? take(message, size_bytes) : NULL;
    if (at != NULL) {
        memcpy(bytes, at, size_bytes);
    } else if (size_bytes > 0) {
        memset(bytes, 0, size_bytes);
    }
}

int64_t moet_message_take_int(moet_message *message)
{
    int64_t value;
    moet_message_take(message, &value, sizeof value);
    return value;
}

const void *moet_message_take_block(moet_message *message, size_t *size_bytes)
{
    int64_t size = moet_message_take_int(message);
    const uint8_t *at = size > 0 ? take(message, (size_t)size) : NULL;
    message->failed = message->failed || size < 0;
    *size_bytes = at != NULL ? (size_t)size : 0;
    return at;
}

void moet_message_take_text(moet_message *message, char *text, size_t size)
{
    size_t length;
    const char *at = moet_message_take_block(message, &length);
    text[0] = '\0';
    if (length >= size) {
        message->failed = true;
    } else if (at != NULL) {
        memcpy(text, at, length);
        text[length] = '\0';
    }
}

moet_status moet_message_end(const moet_message *message, const char *what)
{
    if (message->failed || message->read_bytes != message->size_bytes) {
        return moet_fail(MOET_MALFORMED, "%s: a message of %zu bytes, of which %zu were expected%s", what,
                         message->size_bytes, message->read_bytes, message->failed ? ", and more" : "");
    }
    return MOET_OK;
}

/* ---- the socket ---- */

static moet_status send_bytes(int socket, const void *bytes, size_t size_bytes)
{
    const uint8_t *at = bytes;
    while (size_bytes > 0) {
        ssize_t sent = send(socket, at, size_bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            return moet_fail(MOET_NOT_FOUND, "the other end is closed: %s", strerror(errno));
        }
        at += sent > 0 ? sent : 0;
        size_bytes -= sent > 0 ? (size_t)sent : 0;
    }
    return MOET_OK;
}

moet_status moet_message_send(int socket, uint32_t kind, const moet_message *message)
{
    const header head = {MAGIC, kind, message->size_bytes};
    if (message->failed) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a message to or from a worker");
    }
    MOET_TRY(send_bytes(socket, &head, sizeof head));
    return send_bytes(socket, message->bytes, message->size_bytes);
}

/* Waits until there is something to be read, or the end. */
static moet_status wait_readable(int socket, int64_t deadline_ns)
{
    for (;;) {
        int64_t left_ns = deadline_ns == INT64_MAX ? INT64_MAX : deadline_ns - moet_clock_ns();
        int64_t left_ms = left_ns <= 0 ? 0 : left_ns / 1000000 + 1;
        struct pollfd poller = {.fd = socket, .events = POLLIN};
        int count = poll(&poller, 1, (int)(left_ms < MOST_POLL_MS ? left_ms : MOST_POLL_MS));
        if (count > 0) {
            return MOET_OK;
        }
        if (count < 0 && errno != EINTR) {
            return moet_fail(MOET_IO, "waiting for a message: %s", strerror(errno));
        }
        if (count == 0 && left_ns <= 0) {
            return moet_fail(MOET_TIMEOUT, "no message in time");
        }
    }
}

static moet_status receive_bytes(int socket, int64_t deadline_ns, void *bytes, size_t size_bytes)
{
    uint8_t *at = bytes;
    while (size_bytes > 0) {
        MOET_TRY(wait_readable(socket, deadline_ns));
        ssize_t received = recv(socket, at, size_bytes, 0);
        if (received == 0 || (received < 0 && errno != EINTR)) {
            return moet_fail(MOET_NOT_FOUND, "the other end is closed");
        }
        at += received > 0 ? received : 0;
        size_bytes -= received > 0 ? (size_t)received : 0;
    }
    return MOET_OK;
}

moet_status moet_message_receive(int socket, int64_t deadline_ns, uint32_t *kind, moet_message *message)
{
    header head;
    MOET_TRY(receive_bytes(socket, deadline_ns, &head, sizeof head));
    if (head.magic != MAGIC || head.size_bytes > MOET_MESSAGE_MOST) {
        return moet_fail(MOET_MALFORMED, "what arrived is no message");
    }
    if (!reserve(message, (size_t)head.size_bytes)) {
        moet_message_release(message);
        return moet_fail(MOET_NO_MEMORY, "no memory for a message of %llu bytes", (unsigned long long)head.size_bytes);
    }
    moet_status status = receive_bytes(socket, deadline_ns, message->bytes, (size_t)head.size_bytes);
    if (status != MOET_OK) {
        moet_message_release(message);
        return status;
    }
    message->size_bytes = (size_t)head.size_bytes;
    *kind = head.kind;
    return MOET_OK;
}
