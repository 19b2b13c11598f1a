/* ep_comm_socket: ep_comm.h over TCP. Rank 0 listens at the rendezvous; the others tell it where they listen, get the
 * list, and each connects to the ranks below it. A message is its size, then its bytes. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ep_comm.h"

enum { MAGIC = 0x6d6f6574, PROTOCOL = 1, RETRY_MS = 50, WATCH_MS = 20 };

/* The first words on a connection, from the side that made it. */
typedef struct hello {
    uint32_t magic, protocol;
    int32_t rank, ranks;
    uint32_t port; /* where it listens */
} hello;

/* What rank 0 answers: where each rank listens. A wrong number of ranks is told with `ranks` and an end. */
typedef struct place {
    struct in6_addr address;
    uint32_t port;
} place;

typedef struct socket_comm {
    int *sockets; /* [ranks] -1: none */
    int listener;
    volatile int32_t *lost;
    int wake[2]; /* a pipe that ends the watching thread */
    pthread_t watcher;
    bool is_watched;
    struct pollfd *polled; /* [ranks] */
    int32_t *polled_rank;
} socket_comm;

/* ---- bytes ---- */

static int64_t left_ms(int64_t deadline_ms)
{
    const int64_t left = deadline_ms - moet_ep_now_ms();
    return left > 0 ? left : 0;
}

/* Waits until the socket may be read or written; TIMEOUT, silently. */
static moet_status wait_for(int fd, short events, int64_t deadline_ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        const int ready = poll(&p, 1, (int)left_ms(deadline_ms));
        if (ready > 0) return MOET_OK;
        if (ready == 0) return MOET_TIMEOUT;
        if (errno != EINTR) return MOET_IO;
    }
}

static moet_status send_all(int fd, const void *bytes, size_t size, int64_t deadline_ms)
{
    for (size_t sent = 0; sent < size;) {
        const ssize_t n = send(fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            sent += (size_t)n;
        } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return MOET_LOST;
        } else {
            const moet_status status = wait_for(fd, POLLOUT, deadline_ms);
            if (status != MOET_OK) return status;
        }
    }
    return MOET_OK;
}

static moet_status recv_all(int fd, void *bytes, size_t size, int64_t deadline_ms)
{
    for (size_t got = 0; got < size;) {
        const ssize_t n = recv(fd, (char *)bytes + got, size - got, MSG_DONTWAIT);
        if (n > 0) {
            got += (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            return MOET_LOST;
        } else {
            const moet_status status = wait_for(fd, POLLIN, deadline_ms);
            if (status != MOET_OK) return status;
        }
    }
    return MOET_OK;
}

static void socket_tune(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on); /* a host that vanishes */
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* ---- rendezvous ---- */

/* A dual-stack listener; port 0: any. */
static moet_status listen_at(uint32_t port, int backlog, int *listener, uint32_t *bound_port)
{
    const int off = 0, on = 1;
    struct sockaddr_in6 address = {
        .sin6_family = AF_INET6, .sin6_addr = in6addr_any, .sin6_port = htons((uint16_t)port)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) { /* no IPv6 here: IPv4 alone */
        struct sockaddr_in four = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY), .sin_port = htons((uint16_t)port)};
        socklen_t four_size = sizeof four;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (fd < 0 || bind(fd, (struct sockaddr *)&four, sizeof four) != 0 || listen(fd, backlog) != 0 ||
            getsockname(fd, (struct sockaddr *)&four, &four_size) != 0)
            goto failed;
        *bound_port = ntohs(four.sin_port);
        *listener = fd;
        return MOET_OK;
    }
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        goto failed;
    *bound_port = ntohs(address.sin6_port);
    *listener = fd;
    return MOET_OK;
failed:;
    const int error = errno;
    if (fd >= 0) close(fd);
    return moet_fail(MOET_IO, "expert parallelism: listening at port %u: %s: choose another by MASTER_PORT", port,
                     strerror(error));
}

static void to_six(const struct sockaddr_storage *from, struct in6_addr *to)
{
    if (from->ss_family == AF_INET6) {
        *to = ((const struct sockaddr_in6 *)from)->sin6_addr;
        return;
    }
    *to = (struct in6_addr){0};
    to->s6_addr[10] = to->s6_addr[11] = 0xff;
    memcpy(to->s6_addr + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
}

/* Where nobody listens yet, TCP connects a socket to itself if the system gives it that very port as its own. */
static bool is_own_echo(int fd)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    return getsockname(fd, (struct sockaddr *)&own, &own_size) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_size) == 0 && own_size == peer_size &&
           memcmp(&own, &peer, own_size) == 0;
}

/* Connects, and tries again while nobody listens. `to` has been resolved. */
static moet_status connect_until(const struct sockaddr *to, socklen_t size, int64_t deadline_ms, int *connected)
{
    for (;;) {
        int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) return MOET_IO;
        int error = connect(fd, to, size) == 0 ? 0 : errno;
        if (error == EINPROGRESS) {
            socklen_t length = sizeof error;
            if (wait_for(fd, POLLOUT, deadline_ms) != MOET_OK)
                error = ETIMEDOUT;
            else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
                error = errno;
        }
        if (error == 0 && is_own_echo(fd)) {
            const struct linger at_once = {.l_onoff = 1}; /* or the port stays taken for a minute */
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            error = ECONNREFUSED;
        }
        if (error == 0) {
            *connected = fd;
            return MOET_OK;
        }
        close(fd);
        if (left_ms(deadline_ms) == 0) return MOET_TIMEOUT;
        poll(NULL, 0, RETRY_MS);
    }
}

static moet_status split_rendezvous(const char *rendezvous, char host[MOET_REASON_SIZE], char port[8])
{
    const char *colon = strrchr(rendezvous, ':');
    char *end = NULL;
    const long number = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == rendezvous || *end || number < 1 || number > 65535)
        return moet_fail(MOET_INVALID, "rendezvous '%.64s' must be HOST:PORT with a port of 1 to 65535", rendezvous);
    snprintf(host, MOET_REASON_SIZE, "%.*s", (int)(colon - rendezvous), rendezvous);
    snprintf(port, 8, "%ld", number);
    return MOET_OK;
}

/* Takes one connection whose first words are right, of a rank between low and ranks - 1 that has none yet. */
static moet_status accept_rank(moet_ep_comm *comm, int32_t low, int64_t deadline_ms, hello *from, place *where)
{
    socket_comm *impl = comm->impl;
    for (;;) {
        MOET_TRY(wait_for(impl->listener, POLLIN, deadline_ms));
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        const int fd = accept(impl->listener, (struct sockaddr *)&address, &size);
        if (fd < 0) {
            /* Of this process or its listener; else of the one that is gone. */
            const bool is_own = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ||
                                errno == EBADF || errno == EINVAL || errno == ENOTSOCK;
            if (is_own || left_ms(deadline_ms) == 0) return moet_fail(MOET_IO, "rendezvous: %s", strerror(errno));
            continue;
        }
        socket_tune(fd);
        /* Somebody else's connection is ended, and does not use up the time. */
        const int64_t soon = moet_ep_now_ms() + 2000;
        if (recv_all(fd, from, sizeof *from, soon < deadline_ms ? soon : deadline_ms) != MOET_OK ||
            from->magic != MAGIC) {
            close(fd);
            continue;
        }
        if (from->protocol != PROTOCOL || from->ranks != comm->ranks || from->rank < low || from->rank >= comm->ranks ||
            impl->sockets[from->rank] >= 0) {
            const int32_t ours = comm->ranks;
            send_all(fd, &ours, sizeof ours, deadline_ms); /* so that it can say so too */
            close(fd);
            if (from->protocol != PROTOCOL)
                return moet_fail(MOET_MISMATCH, "rank %d is of another version of this library", from->rank);
            if (from->ranks != comm->ranks)
                return moet_fail(MOET_MISMATCH, "rank %d was started for %d ranks, rank %d for %d", from->rank,
                                 from->ranks, comm->rank, comm->ranks);
            return moet_fail(MOET_MISMATCH, "rank %d came twice: two processes have the same rank", from->rank);
        }
        impl->sockets[from->rank] = fd;
        to_six(&address, &where->address);
        where->port = from->port;
        return MOET_OK;
    }
}

static moet_status fail_missing(const moet_ep_comm *comm, int32_t low, const char *rendezvous)
{
    const socket_comm *impl = comm->impl;
    char list[96] = "";
    size_t used = 0;
    int32_t missing = 0;
    for (int32_t i = low; i < comm->ranks; i++) {
        if (impl->sockets[i] >= 0) continue;
        if (missing++ < 8) used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", used ? ", " : "", i);
    }
    return moet_fail(MOET_TIMEOUT, "%d of %d ranks did not come to %s within %d ms: %s%s", missing, comm->ranks,
                     rendezvous, comm->timeout_ms, list, missing > 8 ? ", ..." : "");
}

static moet_status meet_as_first(moet_ep_comm *comm, const char *rendezvous, uint32_t port, int64_t deadline_ms)
{
    socket_comm *impl = comm->impl;
    uint32_t bound_port = 0;
    MOET_TRY(listen_at(port, comm->ranks + 16, &impl->listener, &bound_port));
    place *places = calloc((size_t)comm->ranks, sizeof *places);
    if (!places) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_status status = MOET_OK;
    for (int32_t i = 1; i < comm->ranks && status == MOET_OK; i++) {
        hello from;
        place where;
        status = accept_rank(comm, 1, deadline_ms, &from, &where);
        if (status == MOET_OK) places[from.rank] = where;
    }
    if (status == MOET_TIMEOUT) {
        const int32_t nobody = 0;
        for (int32_t i = 1; i < comm->ranks; i++) { /* those that came are told; what they get wrong is theirs */
            if (impl->sockets[i] >= 0) send_all(impl->sockets[i], &nobody, sizeof nobody, moet_ep_now_ms());
        }
        status = fail_missing(comm, 1, rendezvous);
    }
    for (int32_t i = 1; i < comm->ranks && status == MOET_OK; i++) {
        const int32_t ranks = comm->ranks;
        if (send_all(impl->sockets[i], &ranks, sizeof ranks, deadline_ms) != MOET_OK ||
            send_all(impl->sockets[i], places, (size_t)comm->ranks * sizeof *places, deadline_ms) != MOET_OK)
            status = moet_fail(MOET_LOST, "rank %d ended while the ranks met", i);
    }
    free(places);
    return status;
}

/* Connects to a rank and says who this is. */
static moet_status greet(moet_ep_comm *comm, int32_t peer, const struct sockaddr *to, socklen_t size, uint32_t port,
                         int64_t deadline_ms)
{
    socket_comm *impl = comm->impl;
    const hello own = {MAGIC, PROTOCOL, comm->rank, comm->ranks, port};
    MOET_TRY(connect_until(to, size, deadline_ms, &impl->sockets[peer]));
    socket_tune(impl->sockets[peer]);
    return send_all(impl->sockets[peer], &own, sizeof own, deadline_ms);
}

static moet_status meet_as_other(moet_ep_comm *comm, const char *rendezvous, const char *host, const char *port,
                                 int64_t deadline_ms)
{
    socket_comm *impl = comm->impl;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    uint32_t own_port = 0;
    const int error = getaddrinfo(host, port, &hints, &found);
    if (error != 0)
        return moet_fail(MOET_NOT_FOUND, "rendezvous %s: host '%s': %s", rendezvous, host, gai_strerror(error));
    place *places = calloc((size_t)comm->ranks, sizeof *places);
    moet_status status = places ? MOET_OK : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    if (status == MOET_OK) status = listen_at(0, comm->ranks + 16, &impl->listener, &own_port);
    if (status == MOET_OK && own_port == strtoul(port, NULL, 10)) { /* which may be rank 0's, of this host */
        const int first = impl->listener;
        status = listen_at(0, comm->ranks + 16, &impl->listener, &own_port);
        close(first);
        if (status != MOET_OK) impl->listener = -1;
    }
    if (status != MOET_OK) goto done;

    int32_t ranks = 0;
    status = greet(comm, 0, found->ai_addr, found->ai_addrlen, own_port, deadline_ms);
    if (status == MOET_OK) status = recv_all(impl->sockets[0], &ranks, sizeof ranks, deadline_ms);
    if (status == MOET_OK && ranks == 0)
        status = MOET_TIMEOUT;
    else if (status == MOET_OK && ranks != comm->ranks)
        status =
            moet_fail(MOET_MISMATCH, "rank 0 was started for %d ranks, rank %d for %d", ranks, comm->rank, comm->ranks);
    else if (status == MOET_OK)
        status = recv_all(impl->sockets[0], places, (size_t)comm->ranks * sizeof *places, deadline_ms);
    if (status == MOET_TIMEOUT && impl->sockets[0] < 0)
        status = moet_fail(MOET_TIMEOUT, "nobody listened at %s within %d ms: rank 0 did not come", rendezvous,
                           comm->timeout_ms);
    else if (status == MOET_TIMEOUT)
        status = moet_fail(MOET_TIMEOUT, "rank 0 at %s did not get all ranks together within %d ms", rendezvous,
                           comm->timeout_ms);
    else if (status == MOET_LOST)
        status = moet_fail(MOET_LOST, "rank 0 at %s ended while the ranks met: its own message says why", rendezvous);
    else if (status == MOET_IO)
        status = moet_fail(MOET_IO, "rendezvous %s: %s", rendezvous, strerror(errno));
    if (status != MOET_OK) goto done;

    for (int32_t i = 1; i < comm->rank && status == MOET_OK; i++) {
        const struct sockaddr_in6 six = {
            .sin6_family = AF_INET6, .sin6_addr = places[i].address, .sin6_port = htons((uint16_t)places[i].port)};
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
        memcpy(&four.sin_addr, places[i].address.s6_addr + 12, 4);
        status = IN6_IS_ADDR_V4MAPPED(&places[i].address)
                     ? greet(comm, i, (const struct sockaddr *)&four, sizeof four, own_port, deadline_ms)
                     : greet(comm, i, (const struct sockaddr *)&six, sizeof six, own_port, deadline_ms);
        if (status != MOET_OK)
            status = moet_fail(status, "rank %d cannot reach rank %d: they must reach each other by any port",
                               comm->rank, i);
    }
    for (int32_t i = comm->rank + 1; i < comm->ranks && status == MOET_OK; i++) {
        hello from;
        place where;
        status = accept_rank(comm, comm->rank + 1, deadline_ms, &from, &where);
        if (status == MOET_TIMEOUT) status = fail_missing(comm, comm->rank + 1, "this rank");
    }
done:
    free(places);
    freeaddrinfo(found);
    return status;
}

/* ---- exchange ---- */

/* How far a part is: its size first, then its bytes. */
typedef struct progress {
    uint64_t send_size, recv_size;
    size_t sent, received; /* of both together */
} progress;

static bool is_sent(const progress *p, const moet_ep_part *part)
{
    return part->send_bytes == 0 || p->sent == sizeof p->send_size + part->send_bytes;
}

static bool is_received(const progress *p, const moet_ep_part *part)
{
    return part->recv_bytes == 0 || p->received == sizeof p->recv_size + part->recv_bytes;
}

static moet_status fail_lost(int32_t peer)
{
    return moet_fail(MOET_LOST, "rank %d ended or its connection did: its own message says why", peer);
}

static moet_status send_some(int fd, int32_t peer, progress *p, const moet_ep_part *part)
{
    while (!is_sent(p, part)) {
        const bool in_size = p->sent < sizeof p->send_size;
        const size_t done = in_size ? p->sent : p->sent - sizeof p->send_size;
        const char *from = in_size ? (const char *)&p->send_size : part->send;
        const size_t size = in_size ? sizeof p->send_size : part->send_bytes;
        const ssize_t n = send(fd, from + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return MOET_OK;
        if (n < 0) return fail_lost(peer);
        p->sent += (size_t)n;
    }
    return MOET_OK;
}

static moet_status recv_some(int fd, int32_t peer, progress *p, const moet_ep_part *part)
{
    while (!is_received(p, part)) {
        const bool in_size = p->received < sizeof p->recv_size;
        const size_t done = in_size ? p->received : p->received - sizeof p->recv_size;
        char *to = in_size ? (char *)&p->recv_size : part->recv;
        const size_t size = in_size ? sizeof p->recv_size : part->recv_bytes;
        const ssize_t n = recv(fd, to + done, size - done, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return MOET_OK;
        if (n <= 0) return fail_lost(peer);
        p->received += (size_t)n;
        if (p->received == sizeof p->recv_size && p->recv_size != part->recv_bytes)
            return moet_fail(MOET_MISMATCH, "rank %d sends %llu bytes where %zu are due: the ranks are not in step",
                             peer, (unsigned long long)p->recv_size, part->recv_bytes);
    }
    return MOET_OK;
}

static moet_status socket_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream)
{
    (void)stream;
    socket_comm *impl = comm->impl;
    int64_t deadline_ms = moet_ep_now_ms() + comm->timeout_ms;
    progress *all = calloc((size_t)comm->ranks, sizeof *all);
    if (!all) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < comm->ranks; i++) all[i].send_size = parts[i].send_bytes;
    while (status == MOET_OK) {
        int32_t count = 0;
        for (int32_t i = 0; i < comm->ranks; i++) {
            if (i == comm->rank) continue;
            const short events =
                (short)((is_sent(&all[i], &parts[i]) ? 0 : POLLOUT) | (is_received(&all[i], &parts[i]) ? 0 : POLLIN));
            if (!events) continue;
            impl->polled[count] = (struct pollfd){.fd = impl->sockets[i], .events = events};
            impl->polled_rank[count++] = i;
        }
        if (count == 0) break;
        const int ready = poll(impl->polled, (nfds_t)count, (int)left_ms(deadline_ms));
        if (ready == 0)
            status = moet_fail(MOET_TIMEOUT, "rank %d waited %d ms for rank %d, which does not answer", comm->rank,
                               comm->timeout_ms, impl->polled_rank[0]);
        if (ready < 0 && errno != EINTR) status = moet_fail(MOET_IO, "waiting for ranks: %s", strerror(errno));
        for (int32_t i = 0; i < count && ready > 0 && status == MOET_OK; i++) {
            const int32_t peer = impl->polled_rank[i];
            if (!impl->polled[i].revents) continue;
            deadline_ms = moet_ep_now_ms() + comm->timeout_ms; /* since the last sign of life */
            if (impl->polled[i].revents & POLLOUT)
                status = send_some(impl->sockets[peer], peer, &all[peer], &parts[peer]);
            if (status == MOET_OK && impl->polled[i].revents & (POLLIN | POLLHUP | POLLERR))
                status = is_received(&all[peer], &parts[peer])
                             ? fail_lost(peer)
                             : recv_some(impl->sockets[peer], peer, &all[peer], &parts[peer]);
        }
    }
    free(all);
    return status;
}

/* ---- the watching thread ---- */

static void *watch(void *argument)
{
    moet_ep_comm *comm = argument;
    socket_comm *impl = comm->impl;
    struct pollfd *fds = calloc((size_t)comm->ranks + 1, sizeof *fds);
    if (!fds) return NULL;                    /* deadlines are left */
    for (int32_t i = 0; i < comm->ranks; i++) /* a negative one is left out */
        fds[i] = (struct pollfd){.fd = impl->sockets[i], .events = POLLRDHUP};
    fds[comm->ranks] = (struct pollfd){.fd = impl->wake[0], .events = POLLIN};
    for (bool is_on = true; is_on;) {
        if (poll(fds, (nfds_t)comm->ranks + 1, -1) < 0) continue;
        if (fds[comm->ranks].revents) break;
        for (int32_t i = 0; i < comm->ranks && is_on; i++) {
            if (!fds[i].revents) continue;
            *impl->lost = i + 1;
            is_on = false;
        }
    }
    free(fds);
    return NULL;
}

static moet_status socket_check(moet_ep_comm *comm)
{
    const socket_comm *impl = comm->impl;
    const int32_t lost = impl->lost ? *impl->lost : 0;
    return lost ? fail_lost(lost - 1) : MOET_OK;
}

static void socket_abort(moet_ep_comm *comm) { (void)comm; }

static void socket_destroy(moet_ep_comm *comm)
{
    socket_comm *impl = comm->impl;
    if (impl->is_watched) {
        while (write(impl->wake[1], "", 1) < 0 && errno == EINTR) continue;
        pthread_join(impl->watcher, NULL);
    }
    for (int32_t i = 0; i < 2; i++) {
        if (impl->wake[i] >= 0) close(impl->wake[i]);
    }
    for (int32_t i = 0; i < comm->ranks && impl->sockets; i++) {
        if (impl->sockets[i] >= 0) close(impl->sockets[i]);
    }
    if (impl->listener >= 0) close(impl->listener);
    free(impl->sockets);
    free(impl->polled);
    free(impl->polled_rank);
    free(impl);
    free(comm);
}

static const moet_ep_comm_table socket_table = {.name = "socket",
                                                .is_host = true,
                                                .exchange = socket_exchange,
                                                .check = socket_check,
                                                .abort = socket_abort,
                                                .destroy = socket_destroy};

moet_status moet_ep_comm_find_port(int32_t *port)
{
    enum { FIRST = 20000, COUNT = 10000 };
    const uint32_t start = (uint32_t)getpid() * 7919u + (uint32_t)moet_ep_now_ms();
    moet_status status = MOET_OK;
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t tried = FIRST + (start + i) % COUNT;
        uint32_t bound_port = 0;
        int listener = -1;
        status = listen_at(tried, 1, &listener, &bound_port);
        if (status != MOET_OK) continue;
        close(listener);
        *port = (int32_t)tried;
        return MOET_OK;
    }
    return status;
}

moet_status moet_ep_comm_create_socket(int32_t rank, int32_t ranks, const char *rendezvous, int32_t timeout_ms,
                                       volatile int32_t *lost, moet_ep_comm **comm)
{
    const int64_t deadline_ms = moet_ep_now_ms() + timeout_ms;
    char host[MOET_REASON_SIZE], port[8];
    moet_status status = MOET_OK;
    if (ranks > 1) MOET_TRY(split_rendezvous(rendezvous, host, port));
    moet_ep_comm *result = calloc(1, sizeof *result);
    socket_comm *impl = calloc(1, sizeof *impl);
    if (!result || !impl) {
        free(result);
        free(impl);
        return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    }
    *result = (moet_ep_comm){&socket_table, rank, ranks, timeout_ms, impl};
    *impl = (socket_comm){.listener = -1, .wake = {-1, -1}, .lost = lost};
    impl->sockets = malloc((size_t)ranks * sizeof *impl->sockets);
    impl->polled = calloc((size_t)ranks, sizeof *impl->polled);
    impl->polled_rank = calloc((size_t)ranks, sizeof *impl->polled_rank);
    for (int32_t i = 0; i < ranks && impl->sockets; i++) impl->sockets[i] = -1;
    if (!impl->sockets || !impl->polled || !impl->polled_rank)
        status = moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    else if (ranks > 1 && rank == 0)
        status = meet_as_first(result, rendezvous, (uint32_t)strtoul(port, NULL, 10), deadline_ms);
    else if (ranks > 1)
        status = meet_as_other(result, rendezvous, host, port, deadline_ms);
    /* Nobody else is to come, and who comes early for this rank's next communicator must not be taken for it. */
    if (impl->listener >= 0) close(impl->listener);
    impl->listener = -1;
    if (status == MOET_OK && lost && ranks > 1) {
        if (pipe2(impl->wake, O_CLOEXEC) != 0 || pthread_create(&impl->watcher, NULL, watch, result) != 0)
            status = moet_fail(MOET_NO_MEMORY, "expert parallelism: no thread to watch the other ranks with");
        else
            impl->is_watched = true;
    }
    if (status != MOET_OK) {
        socket_destroy(result);
        return status;
    }
    *comm = result;
    return MOET_OK;
}
