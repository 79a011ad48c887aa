/* The least that a client can do, for bench_replay: one thread, epoll, one time stamp a receive, every byte kept, nothing parsed.

   limit_client PORT RATE REQUESTS      sends at a constant rate over kept connections; prints a line a request: TTFT in ns from
                                        the time at which it was to be sent */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST 65536

struct request { long long intended, first; };
struct piece { long long at; int length; };
struct connection { struct request *now; char tail[5]; };

static struct request *requests;
static struct connection connections[MOST];
static int idle[MOST], idles, poll_fd;
static struct piece *pieces;
static char *kept;
static long pieces_n, pieces_room, kept_n, kept_room;
static struct sockaddr_in server = {.sin_family = AF_INET};

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void keep(const char *data, int n) {
    if (pieces_n == pieces_room) pieces = realloc(pieces, (pieces_room = 2 * pieces_room + 4096) * sizeof *pieces);
    pieces[pieces_n++] = (struct piece){now_ns(), n};
    if (kept_n + n > kept_room) kept = realloc(kept, kept_room = 2 * kept_room + (1 << 20));
    memcpy(kept + kept_n, data, n);
    kept_n += n;
}

static void send_one(struct request *r) {
    static const char body[] = "{\"model\":\"known\",\"stream\":true,\"max_tokens\":100,\"messages\":[{\"role\":\"user\",\"content\":\"hello there\"}]}";
    static char wire[1024];
    static int wire_n;
    if (!wire_n)
        wire_n = sprintf(wire, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\n\r\n%s", sizeof body - 1, body);
    int fd;
    if (idles) fd = idle[--idles];
    else {
        int one = 1;
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || fd >= MOST || connect(fd, (struct sockaddr *)&server, sizeof server)) exit(1);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
    connections[fd].now = r;
    if (write(fd, wire, wire_n) != wire_n) exit(1);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    double rate = atof(argv[2]);
    long n = atol(argv[3]), sent = 0, ended = 0;
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    requests = calloc(n, sizeof *requests);
    poll_fd = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = timer};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &e);
    long long zero = now_ns() + 50000000;
    for (long i = 0; i < n; i++) requests[i].intended = zero + (long long)(i * 1e9 / rate);
    static struct epoll_event events[1024];
    static char data[1 << 18];
    while (ended < n) {
        while (sent < n && requests[sent].intended <= now_ns()) send_one(&requests[sent++]);
        if (sent < n) {
            struct itimerspec set = {.it_value = {requests[sent].intended / 1000000000, requests[sent].intended % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &set, NULL);
        }
        int found = epoll_wait(poll_fd, events, 1024, -1);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (fd == timer) {
                long long rang;
                if (read(timer, &rang, 8) < 0 && errno != EAGAIN) return 1;
                continue;
            }
            int m = read(fd, data, sizeof data);
            if (m <= 0) return 1;
            keep(data, m);
            struct connection *c = &connections[fd];
            if (!c->now->first) c->now->first = now_ns();
            if (m >= 5) memcpy(c->tail, data + m - 5, 5);
            else memmove(c->tail, c->tail + m, 5 - m), memcpy(c->tail + 5 - m, data, m);
            if (!memcmp(c->tail, "0\r\n\r\n", 5)) ended++, idle[idles++] = fd;
        }
    }
    for (long i = 0; i < n; i++) printf("%lld\n", requests[i].first - requests[i].intended);
    return 0;
}
