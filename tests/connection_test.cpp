// Connections and the room they wait in, without an HTTP server: what slow and silent peers get.
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>

#include "server/waiting_room.h"

namespace moebius {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

ConnectionLimits quick() {
  ConnectionLimits limits;
  limits.head_time = milliseconds(300);
  limits.body_time = milliseconds(300);
  limits.idle_time = milliseconds(150);
  limits.linger_time = milliseconds(100);
  return limits;
}

// The two ends of a connection; the peer's is read and written by the test.
struct Pair {
  explicit Pair(const ConnectionLimits& limits) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    peer = ends[0];
    connection = std::make_unique<Connection>(ends[1], limits);
  }
  ~Pair() { hang_up(); }
  void hang_up() {
    if (peer >= 0) ::close(peer);
    peer = -1;
  }
  void say(const std::string& text) const {
    static_cast<void>(::send(peer, text.data(), text.size(), MSG_NOSIGNAL));
  }
  // What comes until the other side ends.
  std::string hear() const {
    std::string out;
    char chunk[4096];
    for (ssize_t got; (got = ::recv(peer, chunk, sizeof chunk, 0)) > 0;)
      out.append(chunk, static_cast<size_t>(got));
    return out;
  }
  // Whether the other side still waits.
  bool open() const {
    char byte;
    return ::recv(peer, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }

  int peer = -1;
  std::unique_ptr<Connection> connection;
};

// A room whose callers are kept.
struct Room {
  explicit Room(int64_t most)
      : room(most, [this](std::unique_ptr<Connection> c) {
          std::lock_guard lock(mutex);
          called.push_back(std::move(c));
          changed.notify_all();
        }) {}
  std::unique_ptr<Connection> next() {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, std::chrono::seconds(5), [this] { return !called.empty(); })) return nullptr;
    auto first = std::move(called.front());
    called.erase(called.begin());
    return first;
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::unique_ptr<Connection>> called;
  WaitingRoom room;
};

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

TEST(WaitingRoom, CallsWhoseHeadIsThere) {
  Room room(10);
  Pair whole(quick()), parts(quick());
  whole.say(kGet);
  room.room.add(std::move(whole.connection));
  EXPECT_TRUE(room.next());
  room.room.add(std::move(parts.connection));
  for (const char* c = kGet; *c != '\0'; ++c) parts.say(std::string(1, *c));
  EXPECT_TRUE(room.next());
}

TEST(WaitingRoom, ClosesTheSilentAndTellsTheSlow) {
  Room room(10);
  Pair silent(quick()), slow(quick()), gone(quick());
  const auto begun = Clock::now();
  slow.say("GET / HTTP/1.1\r\nX-A: ");
  for (Pair* pair : {&silent, &slow, &gone}) room.room.add(std::move(pair->connection));
  gone.hang_up();
  // A byte now and then gains no time.
  while (slow.open() && Clock::now() - begun < std::chrono::seconds(5)) {
    slow.say("a");
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_NE(slow.hear().find("HTTP/1.1 408 "), std::string::npos);
  EXPECT_EQ(silent.hear(), "");
  const auto took = Clock::now() - begun;
  EXPECT_GE(took, milliseconds(290));
  EXPECT_LT(took, milliseconds(2000));
  EXPECT_TRUE(room.called.empty());
}

TEST(WaitingRoom, RefusesWithoutCalling) {
  Room room(10);
  Pair bad(quick());
  bad.say("GET / HTTP/1.1\r\nHost: a\nHost: b\r\n\r\n");
  room.room.add(std::move(bad.connection));
  EXPECT_NE(bad.hear().find("HTTP/1.1 400 "), std::string::npos);
  EXPECT_TRUE(room.called.empty());
}

TEST(WaitingRoom, ClosesWhoWaitsLongestWhereTooManyAreOpen) {
  ConnectionLimits patient;
  Room room(3);
  Pair served(patient);
  served.say(kGet);
  room.room.add(std::move(served.connection));
  std::unique_ptr<Connection> in_work = room.next();
  ASSERT_TRUE(in_work);
  std::vector<std::unique_ptr<Pair>> waiting;
  for (int i = 0; i < 4; ++i) {
    waiting.push_back(std::make_unique<Pair>(patient));
    room.room.add(std::move(waiting.back()->connection));
  }
  EXPECT_EQ(waiting[0]->hear(), "");  // returns: it is closed
  EXPECT_EQ(waiting[1]->hear(), "");
  EXPECT_TRUE(waiting[2]->open());
  EXPECT_TRUE(waiting[3]->open());
  EXPECT_TRUE(served.open()) << "who is served is not closed";
  // One that has its answer is the first to go.
  in_work->write("done", 4);
  in_work->hang_up();
  room.room.add(std::move(in_work));
  Pair fifth(patient);
  room.room.add(std::move(fifth.connection));
  EXPECT_EQ(served.hear(), "done");
  fifth.say(kGet);
  EXPECT_TRUE(room.next());
  EXPECT_TRUE(waiting[2]->open());
}

TEST(WaitingRoom, LetsThePeerTakeItsAnswer) {
  Room room(10);
  Pair pair(quick());
  pair.say(kGet);
  room.room.add(std::move(pair.connection));
  auto connection = room.next();
  ASSERT_TRUE(connection);
  pair.say("unread");
  EXPECT_EQ(connection->write("answer", 6), 6);
  connection->hang_up();
  room.room.add(std::move(connection));
  EXPECT_EQ(pair.hear(), "answer");
  const auto begun = Clock::now();
  while (::send(pair.peer, "x", 1, MSG_NOSIGNAL) == 1 && Clock::now() - begun < std::chrono::seconds(5))
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_LT(Clock::now() - begun, std::chrono::seconds(2)) << "one that does not close is closed";
}

// Bodies: a peer that stops, and one that sends a byte now and then.
TEST(Connection, GivesBodiesSoMuchTime) {
  for (const bool drips : {false, true}) {
    Pair pair(quick());
    pair.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    ASSERT_EQ(pair.connection->advance(), Connection::Progress::kHead);
    const auto begun = Clock::now();
    std::atomic<bool> over = false;
    std::thread peer([&] {
      while (drips && !over) {
        pair.say("x");
        std::this_thread::sleep_for(milliseconds(20));
      }
    });
    char byte;
    while (pair.connection->read(&byte, 1) > 0 && Clock::now() - begun < std::chrono::seconds(5)) {
    }
    const auto took = Clock::now() - begun;
    over = true;
    peer.join();
    EXPECT_GE(took, drips ? milliseconds(290) : milliseconds(140));
    EXPECT_LT(took, milliseconds(2000));
  }
}

TEST(Connection, DoesNotWaitForWhoDoesNotRead) {
  Pair pair(quick());
  const std::string much(16 << 20, 'x');
  const auto begun = Clock::now();
  EXPECT_EQ(pair.connection->write(much.data(), much.size()), -1);
  EXPECT_LT(Clock::now() - begun, milliseconds(2000));
}

TEST(Connection, StopsAtAMalformedChunk) {
  Pair pair(quick());
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  pair.say(head + "2\r\n");
  ASSERT_EQ(pair.connection->advance(), Connection::Progress::kHead);
  std::string taken(head.size() + 3, ' ');
  EXPECT_EQ(pair.connection->read(taken.data(), taken.size()), std::ssize(taken));
  pair.say("{}\n0\r\n\r\n");
  EXPECT_EQ(pair.connection->read(taken.data(), taken.size()), -1);
}

}  // namespace
}  // namespace moebius
