/* mock_upstream: an upstream that costs next to nothing, so that what is measured is what stands in front of it.
 *
 *   mock_upstream PORT        one thread, epoll, HTTP/1.1 keep-alive; the request's body names the answer:
 *
 *   (else)                    200, a JSON response of about 1.4 KB
 *   "model":"bench/stream"    100 events, each its own write; connections take turns, one event each
 *   "model":"bench/batch"     100 events, ten to a write
 *   "model":"bench/ticks"     one event at once, then one a second with its time of writing (CLOCK_MONOTONIC, ns);
 *                             as many as "max_output_tokens" says
 *
 * A path that ends in /chat/completions gets the same in that dialect, but for the ticks.
 * Bodies of any size are read and dropped. Only requests with Content-Length are understood.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 100, BATCH = 10, MAX_FD = 65536, HEAD_BYTES = 8192, PERIOD_MS = 1000 };
enum mode { JSON, STREAM, BATCHED, TICKS };
enum dialect { RESPONSES, CHAT, DIALECTS };

struct connection {
  int fd;
  enum mode mode;
  enum dialect dialect;
  size_t have;       /* bytes of `in` in use */
  size_t body_left;  /* of the request, beyond `in` */
  int events_left;   /* of the answer; 0: none is being sent */
  int listed;        /* in `writers` or in the queue of ticks */
  int64_t due_ms;
  const char *out;   /* what a full socket did not take */
  size_t out_left;
  struct connection *next;
  char tick[256];
  char in[HEAD_BYTES];
};

static struct connection *connections[MAX_FD];
static struct connection *writers[MAX_FD]; /* streams that have an event to write */
static int writer_count;
static struct connection *ticks_first, *ticks_last; /* in order of `due_ms`, since all have one period */
static int poller;

static char json_answers[DIALECTS][4096], stream_head[256], events[DIALECTS][EVENTS][1024];
static size_t json_sizes[DIALECTS], head_size, event_sizes[DIALECTS][EVENTS];

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static size_t chunk(char *to, size_t room, const char *data) {
  return (size_t)snprintf(to, room, "%zx\r\n%s\r\n", strlen(data), data);
}

#define RESPONSE "{\"id\":\"resp_bench\",\"object\":\"response\",\"created_at\":1,\"status\":\"%s\",\"model\":\"bench\"," \
  "\"output\":[%s],\"usage\":{\"input_tokens\":20,\"input_tokens_details\":{\"cached_tokens\":0}," \
  "\"output_tokens\":98,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":118}}"

#define CHUNK "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion%s\",\"created\":1,\"model\":\"bench\"," \
  "\"choices\":[%s]%s}"
#define CHAT_USAGE ",\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":98,\"total_tokens\":118}"

static void whole_answer(enum dialect dialect, const char *body) {
  json_sizes[dialect] = (size_t)snprintf(json_answers[dialect], sizeof json_answers[dialect],
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nx-request-id: bench\r\n\r\n%s",
    strlen(body), body);
}

static void keep_event(enum dialect dialect, int i, const char *data) {
  char *to = events[dialect][i];
  size_t size = chunk(to, sizeof events[dialect][i], data);
  if (i == EVENTS - 1) {
    memcpy(to + size, "0\r\n\r\n", 6);
    size += 5;
  }
  event_sizes[dialect][i] = size;
}

static void prepare_chat(const char *text) {
  char choice[1400], body[2048], data[2048], event[2200];
  snprintf(choice, sizeof choice,
    "{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"%s\"}}", text);
  snprintf(body, sizeof body, CHUNK, "", choice, CHAT_USAGE);
  whole_answer(CHAT, body);
  for (int i = 0; i < EVENTS; i++) {
    int last = i == EVENTS - 1;
    snprintf(choice, sizeof choice, "{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"finish_reason\":%s}", i,
      i == EVENTS - 2 ? "\"stop\"" : "null");
    snprintf(data, sizeof data, CHUNK, ".chunk", last ? "" : choice, last ? CHAT_USAGE : "");
    snprintf(event, sizeof event, "data: %s\n\n%s", data, last ? "data: [DONE]\n\n" : "");
    keep_event(CHAT, i, event);
  }
}

static void prepare(void) {
  char text[1100], item[1400], body[2048], data[1000], response[512];
  memset(text, 'x', 1000);
  text[1000] = 0;
  snprintf(item, sizeof item, "{\"type\":\"message\",\"id\":\"msg_bench\",\"role\":\"assistant\",\"status\":\"completed\","
    "\"content\":[{\"type\":\"output_text\",\"text\":\"%s\",\"annotations\":[]}]}", text);
  snprintf(body, sizeof body, RESPONSE, "completed", item);
  whole_answer(RESPONSES, body);
  prepare_chat(text);
  head_size = (size_t)snprintf(stream_head, sizeof stream_head, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    "transfer-encoding: chunked\r\nx-request-id: bench\r\n\r\n");
  for (int i = 0; i < EVENTS; i++) {
    const char *name = i == 0 ? "response.created" : i == EVENTS - 1 ? "response.completed" : "response.output_text.delta";
    int size = snprintf(data, sizeof data, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,", name, name, i);
    if (i == 0 || i == EVENTS - 1) {
      snprintf(response, sizeof response, RESPONSE, i ? "completed" : "in_progress", "");
      snprintf(data + size, sizeof data - (size_t)size, "\"response\":%s}\n\n%s", response, i ? "data: [DONE]\n\n" : "");
    } else {
      snprintf(data + size, sizeof data - (size_t)size, "\"item_id\":\"msg_bench\",\"output_index\":0,"
        "\"content_index\":0,\"delta\":\" word%d\",\"logprobs\":[]}\n\n", i);
    }
    keep_event(RESPONSES, i, data);
  }
}

static void drop(struct connection *c) {
  close(c->fd); /* freed once no list has it */
  connections[c->fd] = NULL;
  c->fd = -1;
  if (!c->listed) free(c);
}

static void send_bytes(struct connection *c, const char *data, size_t size) {
  ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
  if (sent < 0) sent = 0;
  if ((size_t)sent == size) return;
  c->out = data + sent; /* all of it lives as long as the connection */
  c->out_left = size - (size_t)sent;
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = c->fd};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void queue_tick(struct connection *c, int64_t due_ms) {
  c->due_ms = due_ms;
  c->next = NULL;
  c->listed = 1;
  if (ticks_last) ticks_last->next = c; else ticks_first = c;
  ticks_last = c;
}

static void write_tick(struct connection *c) {
  char data[200];
  if (--c->events_left == 0) {
    send_bytes(c, events[RESPONSES][EVENTS - 1], event_sizes[RESPONSES][EVENTS - 1]);
    return;
  }
  snprintf(data, sizeof data, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\","
    "\"delta\":\"x\",\"at_ns\":%020lld}\n\n", (long long)now_ns());
  send_bytes(c, c->tick, chunk(c->tick, sizeof c->tick, data));
  queue_tick(c, c->due_ms + PERIOD_MS);
}

static void start_answer(struct connection *c) {
  if (c->mode == JSON) {
    send_bytes(c, json_answers[c->dialect], json_sizes[c->dialect]);
    return;
  }
  send_bytes(c, stream_head, head_size);
  if (c->mode == TICKS) {
    send_bytes(c, events[RESPONSES][0], event_sizes[RESPONSES][0]);
    queue_tick(c, now_ns() / 1000000 + PERIOD_MS);
  } else {
    c->events_left = EVENTS;
    writers[writer_count++] = c;
    c->listed = 1;
  }
}

static void write_events(struct connection *c) {
  static char batch[BATCH * 1024];
  int first = EVENTS - c->events_left, count = c->mode == BATCHED ? BATCH : 1;
  size_t *sizes = event_sizes[c->dialect];
  if (count == 1) {
    send_bytes(c, events[c->dialect][first], sizes[first]);
  } else {
    size_t size = 0;
    for (int i = first; i < first + count; size += sizes[i++])
      memcpy(batch + size, events[c->dialect][i], sizes[i]);
    if (send(c->fd, batch, size, MSG_NOSIGNAL) != (ssize_t)size) shutdown(c->fd, SHUT_RDWR);
  }
  c->events_left -= count;
}

/* One turn: each stream writes one event (or batch), so that many streams come in turns, as from a real provider. */
static void turn(void) {
  int kept = 0;
  for (int i = 0; i < writer_count; i++) {
    struct connection *c = writers[i];
    if (c->fd >= 0 && !c->out_left) write_events(c);
    if (c->fd >= 0 && c->events_left) { writers[kept++] = c; continue; }
    c->listed = 0;
    if (c->fd < 0) free(c);
  }
  writer_count = kept;
  int64_t now_ms = now_ns() / 1000000;
  while (ticks_first && ticks_first->due_ms <= now_ms) {
    struct connection *c = ticks_first;
    ticks_first = c->next;
    if (!ticks_first) ticks_last = NULL;
    c->listed = 0;
    if (c->fd < 0) free(c);
    else if (c->out_left) queue_tick(c, now_ms + 1);
    else write_tick(c);
  }
}

static void take_request(struct connection *c) {
  for (;;) {
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) { if (c->have == HEAD_BYTES - 1) drop(c); return; }
    char *length = strcasestr(c->in, "\ncontent-length:");
    size_t body = length && length < end ? strtoul(length + 16, NULL, 10) : 0;
    size_t head = (size_t)(end + 4 - c->in), here = c->have - head, probe = body < 1000 ? body : 1000;
    if (here < probe) return;
    char *name = memmem(end + 4, probe, "\"model\":\"bench/", 15);
    c->mode = !name ? JSON : !strncmp(name + 15, "stream", 6) ? STREAM : !strncmp(name + 15, "batch", 5) ? BATCHED
      : !strncmp(name + 15, "ticks", 5) ? TICKS : JSON;
    char *chat = strstr(c->in, "/chat/completions");
    c->dialect = chat && chat < end ? CHAT : RESPONSES;
    char *most = memmem(end + 4, probe, "\"max_output_tokens\":", 20);
    if (c->mode == TICKS) c->events_left = most ? atoi(most + 20) : EVENTS;
    if (here < body) { c->body_left = body - here; c->have = 0; return; }
    c->have = here - body;
    memmove(c->in, c->in + head + body, c->have);
    start_answer(c);
    if (!c->have) return;
  }
}

static void readable(struct connection *c) {
  static char waste[1 << 18];
  for (;;) {
    ssize_t got = c->body_left ? recv(c->fd, waste, c->body_left < sizeof waste ? c->body_left : sizeof waste, 0)
      : recv(c->fd, c->in + c->have, HEAD_BYTES - 1 - c->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) { drop(c); return; }
    if (c->body_left) {
      c->body_left -= (size_t)got;
      if (!c->body_left) start_answer(c);
      else continue;
    } else {
      int fd = c->fd;
      c->have += (size_t)got;
      take_request(c);
      if (connections[fd] != c) return;
      if (c->body_left) continue;
    }
    return;
  }
}

static void accept_all(int listener) {
  int fd, on = 1;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    if (fd >= MAX_FD) { close(fd); continue; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    c->fd = fd;
    connections[fd] = c;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
  }
}

static void writable(struct connection *c) {
  size_t size = c->out_left;
  c->out_left = 0;
  struct epoll_event e = {.events = EPOLLIN, .data.fd = c->fd};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
  send_bytes(c, c->out, size);
}

int main(int argc, char **argv) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0)),
    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) { perror("bind"); return 1; }
  prepare();
  poller = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, ready[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
  for (;;) {
    int count = epoll_wait(poller, ready, 512, writer_count ? 0 : ticks_first ? 2 : -1);
    for (int i = 0; i < count; i++) {
      int fd = ready[i].data.fd;
      if (fd == listener) { accept_all(listener); continue; }
      if (connections[fd] && ready[i].events & EPOLLOUT) writable(connections[fd]);
      if (connections[fd] && ready[i].events & ~(uint32_t)EPOLLOUT) readable(connections[fd]);
    }
    turn();
  }
}
