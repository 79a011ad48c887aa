/* A server of known timing for bench_replay: one thread, epoll, nothing but times.

   known_server TTFT_US GAP_US TOKENS GRID     prints its port; GRID 1: all streams send at the same moments, as engines that batch do

   Every POST is answered by TOKENS server-sent events of a chat, the first TTFT_US after its last byte has arrived, the others
   GAP_US apart. A GET is told the name of a model at once. On SIGTERM it prints a line an answer: when its request arrived, when its
   first event was sent and when its last, ns of CLOCK_MONOTONIC. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
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
#define HEAD_BYTES 8192

struct stream {
    char head[HEAD_BYTES + 1];
    int got;            /* bytes of the head so far; -1: in the body */
    long body_left;
    long long arrived, first, due;
    int get;            /* a question, not a request */
    int sent;           /* events */
    unsigned serial;    /* of the connection, so that what was queued for an old one is not sent to a new one */
};
static struct stream *streams[MOST];

/* Streams wait for their next event in one of two queues, whose times rise: for the first event, and for a later one. */
struct entry { int fd; unsigned serial; };
struct queue { struct entry *at; unsigned from, to; };
static struct queue firsts, laters;

struct answer { long long arrived, first, last; };
static struct answer *answers;
static long answered, room;
static volatile sig_atomic_t ended;
static void end(int number) { (void)number, ended = 1; }

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void put(struct queue *q, int fd) { q->at[q->to++ % MOST] = (struct entry){fd, streams[fd]->serial}; }
static struct stream *peek(struct queue *q) {
    for (; q->from != q->to; q->from++) {
        struct entry e = q->at[q->from % MOST];
        if (streams[e.fd] && streams[e.fd]->serial == e.serial) return streams[e.fd];
    }
    return NULL;
}

static long long ttft, gap;
static int tokens, grid;
static const char *HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

static int event(char *to, int last) {
    char data[512];
    int n = snprintf(data, sizeof data,
        "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"known\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
        last ? "\"length\"" : "null");
    return sprintf(to, "%x\r\n%s\r\n", n, data);
}

static void send_next(int fd, struct stream *s) {
    char out[1024];
    int n = 0, last = s->sent + 1 == tokens;
    long long now = now_ns();
    if (s->sent == 0) s->first = now, n = sprintf(out, "%s", HEAD);
    n += event(out + n, last);
    if (last) {
        if (answered == room) answers = realloc(answers, (room = 2 * room + 1024) * sizeof(struct answer));
        answers[answered++] = (struct answer){s->arrived, s->first, now};
        char data[256];
        int m = snprintf(data, sizeof data, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,"
            "\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", tokens);
        n += sprintf(out + n, "%x\r\n%s\r\n0\r\n\r\n", m, data);
    }
    if (write(fd, out, n) != n) last = 1;
    s->sent++;
    if (last) return;
    s->due += gap;
    put(&laters, fd);
}

static void arrived(int fd, struct stream *s) {
    s->got = 0;
    if (s->get) {
        static const char models[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 58\r\n\r\n"
            "{\"object\":\"list\",\"data\":[{\"id\":\"known\",\"object\":\"model\"}]}";
        if (write(fd, models, sizeof models - 1) < 0) perror("write");
        return;
    }
    s->arrived = now_ns();
    s->due = s->arrived + ttft;
    if (grid) s->due = (s->due / gap + 1) * gap;
    s->sent = 0;
    put(&firsts, fd);
}

/* The bytes of a request; one at a time a connection. */
static void take(int fd, struct stream *s, char *data, long n) {
    while (n > 0) {
        if (s->got >= 0) {
            long room = HEAD_BYTES - s->got, m = n < room ? n : room;
            memcpy(s->head + s->got, data, m);
            s->got += m;
            s->head[s->got] = 0;
            char *end = strstr(s->head, "\r\n\r\n");
            if (!end) {
                if (s->got == HEAD_BYTES) exit(3);
                return;
            }
            char *length = strcasestr(s->head, "content-length:");
            long of_body = s->got - (end + 4 - s->head);
            data += m - of_body;
            n -= m - of_body;
            s->body_left = length ? atol(length + 15) : 0;
            s->get = !strncmp(s->head, "GET ", 4);
            s->got = -1;
        }
        long m = n < s->body_left ? n : s->body_left;
        s->body_left -= m, data += m, n -= m;
        if (s->body_left == 0) arrived(fd, s);
        else return;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    ttft = atoll(argv[1]) * 1000, gap = atoll(argv[2]) * 1000, tokens = atoi(argv[3]), grid = atoi(argv[4]);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, end);
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    firsts.at = calloc(MOST, sizeof(struct entry)), laters.at = calloc(MOST, sizeof(struct entry));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer;
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &e);
    unsigned serial = 0;
    static struct epoll_event events[512];
    static char data[1 << 18];
    while (!ended) {
        struct queue *both[2] = {&firsts, &laters};
        long long next = 0, now = now_ns();
        for (int i = 0; i < 2; i++) {
            struct stream *s;
            int burst = 256;
            while ((s = peek(both[i])) && s->due <= now && burst--) {
                int fd = both[i]->at[both[i]->from++ % MOST].fd;
                send_next(fd, s);
            }
            if ((s = peek(both[i])) && (!next || s->due < next)) next = s->due;
        }
        struct itimerspec set = {.it_value = {next / 1000000000, next % 1000000000}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &set, NULL);
        int n = epoll_wait(poll, events, 512, 1000);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == timer) {
                long long rang;
                if (read(timer, &rang, 8) < 0 && errno != EAGAIN) return 1;
            } else if (fd == listener) {
                int new;
                while ((new = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (new >= MOST) return 1;
                    setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    free(streams[new]);
                    streams[new] = calloc(1, sizeof(struct stream));
                    streams[new]->serial = ++serial;
                    e.data.fd = new;
                    epoll_ctl(poll, EPOLL_CTL_ADD, new, &e);
                }
            } else {
                long m = read(fd, data, sizeof data);
                if (m > 0) take(fd, streams[fd], data, m);
                else if (m == 0 || errno != EAGAIN) {
                    free(streams[fd]);
                    streams[fd] = NULL;
                    close(fd);
                }
            }
        }
    }
    for (long i = 0; i < answered; i++)
        printf("%lld %lld %lld\n", answers[i].arrived, answers[i].first, answers[i].last);
    return 0;
}
