// The client: sends one gRPC request again and again, at given times (open loop) or whenever an earlier one has been
// answered (closed loop). Prints a line for each: when it was due, was sent and was answered, in µs, and 1 if the
// answer was good, else 0.
//
// Usage: grpc_load PORT PATH BODY ANSWER_BYTES CONNECTIONS IN_FLIGHT SECONDS    closed loop
//        grpc_load PORT PATH BODY ANSWER_BYTES CONNECTIONS <TIMES               open loop: µs, in order
//
// BODY is a file with the message as gRPC frames it; an answer is good if it has at least ANSWER_BYTES of data, since a
// refused call has none. Why not h2load: its --rps sends all that is due in one burst every 10 ms, which is just what a
// server that batches would wish for. Why not gRPC's own client: it takes as long as much of what is measured. HTTP/2
// is done as far as this needs it: one request, whose header never changes, and answers of which the size counts.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

constexpr auto kStalled = std::chrono::seconds(30);
constexpr int64_t kWindow = 65'535;         // what HTTP/2 starts with
constexpr uint32_t kLargest = 0x7fff'ffff;  // window, stream
constexpr size_t kFrameHeader = 9, kFrame = 16'384;

enum Type : uint8_t { kData, kHeaders, kPriority, kReset, kSettings, kPush, kPing, kGoAway, kWindowUpdate };
enum Flag : uint8_t { kAck = 1, kEndStream = 1, kEndHeaders = 4 };
enum Setting : uint16_t { kMaxStreams = 3, kInitialWindow = 4 };

[[noreturn]] void fail(const std::string& what) {
  std::cerr << "grpc_load: " << what << std::endl;
  exit(1);
}

struct Request {
  Clock::time_point due, sent, answered;
  bool good = false;
};

// What all connections send, and what they take for an answer.
struct Call {
  std::string headers, body;
  size_t answer_bytes;
};

std::string to_bytes(uint64_t value, int bytes) {
  std::string text;
  while (bytes-- > 0) text.push_back(static_cast<char>(value >> (8 * bytes)));
  return text;
}

uint64_t to_number(const char* at, int bytes) {
  uint64_t value = 0;
  while (bytes-- > 0) value = value << 8 | static_cast<uint8_t>(*at++);
  return value;
}

std::string frame(Type type, uint8_t flags, uint32_t stream, const std::string& payload) {
  return to_bytes(payload.size(), 3) + to_bytes(type, 1) + to_bytes(flags, 1) + to_bytes(stream, 4) + payload;
}

// A header as HPACK writes one that is not to be remembered. Both parts are shorter than 127 bytes.
std::string header(const std::string& name, const std::string& value) {
  return to_bytes(0, 1) + to_bytes(name.size(), 1) + name + to_bytes(value.size(), 1) + value;
}

class Connection {
 public:
  Connection(uint16_t port, const Call& call, std::vector<Request>& requests) : call_(call), requests_(requests) {
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail("cannot connect");
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
           frame(kSettings, 0, 0, to_bytes(kInitialWindow, 2) + to_bytes(kLargest, 4)) +
           frame(kWindowUpdate, 0, 0, to_bytes(kLargest - kWindow, 4));
    std::vector<size_t> answered;
    while (!is_settled_) {
      flush();
      receive(answered);
    }
  }

  Connection(const Connection&) = delete;

  void send(size_t request) {
    waiting_.push_back(request);
    pump();
  }

  pollfd interest() const { return {socket_, static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT), 0}; }

  // Write what the socket takes.
  void flush() {
    if (out_.empty()) return;
    const ssize_t count = ::send(socket_, &out_[flushed_], out_.size() - flushed_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) fail(std::string("cannot send: ") + strerror(errno));
    if (count > 0) flushed_ += count;
    if (flushed_ < out_.size()) return;
    out_.clear();
    flushed_ = 0;
  }

  // Read what has come, and add the requests that this answers.
  void receive(std::vector<size_t>& answered) {
    char buffer[1 << 16];
    const ssize_t count = recv(socket_, buffer, sizeof buffer, 0);
    if (count == 0) fail("the server closed a connection");
    if (count < 0) fail(std::string("cannot receive: ") + strerror(errno));
    in_.append(buffer, count);
    size_t at = 0;
    while (in_.size() - at >= kFrameHeader) {
      const char* head = &in_[at];
      const size_t size = to_number(head, 3);
      if (in_.size() - at < kFrameHeader + size) break;
      handle(static_cast<Type>(head[3]), head[4], to_number(head + 5, 4), {head + kFrameHeader, size}, answered);
      at += kFrameHeader + size;
    }
    in_.erase(0, at);
    pump();
  }

 private:
  struct Stream {
    size_t request;
    int64_t window;
    size_t sent = 0, received = 0;
  };

  void handle(Type type, uint8_t flags, uint32_t id, const std::string& payload, std::vector<size_t>& answered) {
    if (type == kGoAway) fail("GOAWAY, error " + std::to_string(to_number(&payload[4], 4)) + ": " + payload.substr(8));
    if (type == kPing && !(flags & kAck)) out_ += frame(kPing, kAck, 0, payload);
    if (type == kSettings && !(flags & kAck)) settle(payload);
    if (type == kWindowUpdate && id == 0) window_ += to_number(payload.data(), 4);
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    Stream& stream = found->second;
    if (type == kWindowUpdate) stream.window += to_number(payload.data(), 4);
    if (type == kData) stream.received += payload.size();
    const bool is_end = (type == kData || type == kHeaders) && (flags & kEndStream);
    if (!is_end && type != kReset) return;
    Request& request = requests_[stream.request];
    request.answered = Clock::now();
    request.good = is_end && stream.received >= call_.answer_bytes;
    answered.push_back(stream.request);
    sending_.erase(std::remove(sending_.begin(), sending_.end(), id), sending_.end());
    streams_.erase(found);
  }

  void settle(const std::string& payload) {
    for (size_t at = 0; at + 6 <= payload.size(); at += 6) {
      const int64_t value = to_number(&payload[at + 2], 4);
      const auto setting = to_number(&payload[at], 2);
      if (setting == kMaxStreams) max_streams_ = value;
      if (setting == kInitialWindow) {
        for (auto& [id, stream] : streams_) stream.window += value - initial_window_;
        initial_window_ = value;
      }
    }
    out_ += frame(kSettings, kAck, 0, "");
    is_settled_ = true;
  }

  // Put into `out_` what the server has room for.
  void pump() {
    while (!waiting_.empty() && streams_.size() < max_streams_) {
      requests_[waiting_.front()].sent = Clock::now();
      out_ += frame(kHeaders, kEndHeaders, next_stream_, call_.headers);
      streams_.emplace(next_stream_, Stream{waiting_.front(), initial_window_});
      sending_.push_back(next_stream_);
      waiting_.pop_front();
      next_stream_ += 2;
    }
    while (!sending_.empty()) {
      Stream& stream = streams_.at(sending_.front());
      const auto left = static_cast<int64_t>(std::min(kFrame, call_.body.size() - stream.sent));
      const int64_t size = std::min({left, window_, stream.window});
      if (size <= 0) return;
      const bool is_last = stream.sent + size == call_.body.size();
      out_ += frame(kData, is_last ? kEndStream : 0, sending_.front(), call_.body.substr(stream.sent, size));
      stream.sent += size;
      stream.window -= size;
      window_ -= size;
      if (is_last) sending_.pop_front();
    }
  }

  const Call& call_;
  std::vector<Request>& requests_;
  int socket_;
  std::string out_, in_;
  size_t flushed_ = 0;  // of `out_`
  bool is_settled_ = false;
  size_t max_streams_ = kLargest;
  int64_t initial_window_ = kWindow, window_ = kWindow;
  uint32_t next_stream_ = 1;
  std::deque<size_t> waiting_;    // requests that are due, and have no stream yet
  std::deque<uint32_t> sending_;  // streams whose body is not all sent
  std::unordered_map<uint32_t, Stream> streams_;
};

// Flush, wait until something comes or until `until`, and read what came.
void wait(std::vector<std::unique_ptr<Connection>>& connections, Clock::time_point until,
          std::vector<std::vector<size_t>>& answered) {
  std::vector<pollfd> polled;
  for (auto& connection : connections) {
    connection->flush();
    polled.push_back(connection->interest());
  }
  const auto left = std::max(nanoseconds(0), std::chrono::duration_cast<nanoseconds>(until - Clock::now()));
  const timespec timeout{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
  ppoll(polled.data(), polled.size(), &timeout, nullptr);
  for (size_t index = 0; index < polled.size(); ++index) {
    answered[index].clear();
    if (polled[index].revents & (POLLIN | POLLERR | POLLHUP)) connections[index]->receive(answered[index]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 8) fail("PORT PATH BODY ANSWER_BYTES CONNECTIONS [IN_FLIGHT SECONDS]");
  const bool is_closed = argc == 8;
  const auto port = static_cast<uint16_t>(atoi(argv[1]));
  std::ifstream body(argv[3], std::ios::binary);
  const Call call{header(":method", "POST") + header(":scheme", "http") + header(":path", argv[2]) +
                      header(":authority", "127.0.0.1:" + std::string(argv[1])) +
                      header("content-type", "application/grpc") + header("te", "trailers"),
                  std::string(std::istreambuf_iterator<char>(body), {}), strtoul(argv[4], nullptr, 10)};
  if (call.body.empty()) fail(std::string(argv[3]) + " is empty or not there");
  std::vector<microseconds> times;
  for (int64_t time; !is_closed && std::cin >> time;) times.emplace_back(time);

  prctl(PR_SET_TIMERSLACK, 1);  // ns; the usual 50 µs would make every request late
  std::vector<Request> requests;
  std::vector<std::unique_ptr<Connection>> connections;
  for (int count = atoi(argv[5]); count > 0; --count) {
    connections.push_back(std::make_unique<Connection>(port, call, requests));
  }
  std::vector<std::vector<size_t>> answered(connections.size());
  const auto start = Clock::now();
  const std::chrono::duration<double> seconds(is_closed ? atof(argv[7]) : 0);
  const auto end = start + std::chrono::duration_cast<nanoseconds>(seconds);
  auto last_answer = start;
  size_t in_flight = 0;
  const auto send = [&](size_t connection, Clock::time_point due) {
    if (in_flight++ == 0) last_answer = Clock::now();
    requests.push_back({due, due, due});
    connections[connection]->send(requests.size() - 1);
  };
  const auto next_due = [&] { return start + times[requests.size()]; };

  for (int number = 0; is_closed && number < atoi(argv[6]); ++number) send(number % connections.size(), Clock::now());
  while (in_flight > 0 || requests.size() < times.size()) {
    while (requests.size() < times.size() && next_due() <= Clock::now()) {
      send(requests.size() % connections.size(), next_due());
    }
    wait(connections, requests.size() < times.size() ? next_due() : last_answer + kStalled, answered);
    const auto now = Clock::now();
    for (size_t index = 0; index < connections.size(); ++index) {
      in_flight -= answered[index].size();
      if (!answered[index].empty()) last_answer = now;
      if (now < end) {
        for (size_t count = answered[index].size(); count > 0; --count) send(index, Clock::now());
      }
    }
    if (in_flight > 0 && now >= last_answer + kStalled) fail("no answer for 30 s");
  }

  const auto since = [&](Clock::time_point time) {
    return static_cast<long long>(std::chrono::duration_cast<microseconds>(time - start).count());
  };
  for (const Request& request : requests) {
    printf("%lld %lld %lld %d\n", since(request.due), since(request.sent), since(request.answered), request.good);
  }
}
