/* message: what a sweep and its worker process say to each other: a kind and a body of at most MOET_MESSAGE_MOST bytes,
 * over a stream socket. Both ends are one program: values go as they lie in memory. Every length is checked. */
#ifndef MOET_MESSAGE_H
#define MOET_MESSAGE_H

#include "../src/status.h"

#define MOET_MESSAGE_MOST ((size_t)256 << 20)

/* Zero is an empty message; release frees it and makes it so again. */
typedef struct moet_message {
    uint8_t *bytes;
    size_t size_bytes, capacity_bytes;
    size_t read_bytes; /* what has been taken */
    bool failed;       /* to be written: no memory; to be read: something was missing. Everything after it fails too */
} moet_message;
void moet_message_release(moet_message *message);

void moet_message_put(moet_message *message, const void *bytes, size_t size_bytes);
void moet_message_put_int(moet_message *message, int64_t value);
/* A block of its own length, for what the other end cannot know the size of. */
void moet_message_put_block(moet_message *message, const void *bytes, size_t size_bytes);
void moet_message_put_text(moet_message *message, const char *text);

/* What is missing reads as zeros. */
void moet_message_take(moet_message *message, void *bytes, size_t size_bytes);
int64_t moet_message_take_int(moet_message *message);
/* In place, until the message changes. */
const void *moet_message_take_block(moet_message *message, size_t *size_bytes);
/* Into text[size]; one that is too long fails the message. */
void moet_message_take_text(moet_message *message, char *text, size_t size);
/* MALFORMED where something was missing or is left. */
moet_status moet_message_end(const moet_message *message, const char *what);

/* NOT_FOUND: the other end is closed. */
moet_status moet_message_send(int socket, uint32_t kind, const moet_message *message);
/* Into an empty message, by a time of moet_clock_ns (INT64_MAX: whenever). NOT_FOUND: the other end is closed, TIMEOUT,
 * MALFORMED: no message of ours. What arrived before the other end closed is still received. */
moet_status moet_message_receive(int socket, int64_t deadline_ns, uint32_t *kind, moet_message *message);

#endif
