#include "server/jobs/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "models/file_io.h"

namespace moebius {

namespace {

// What the child does between its birth and the program; each is made and freed in a pair.
class Plan {
 public:
  Plan() { posix_spawn_file_actions_init(&files_), posix_spawnattr_init(&attributes_); }
  ~Plan() { posix_spawn_file_actions_destroy(&files_), posix_spawnattr_destroy(&attributes_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void describe(const std::string& output, int kept_open) {
    posix_spawn_file_actions_addopen(&files_, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files_, 1, output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&files_, 1, 2);
    if (kept_open >= 0) posix_spawn_file_actions_adddup2(&files_, kept_open, 3);
    posix_spawn_file_actions_addclosefrom_np(&files_, kept_open >= 0 ? 4 : 3);
    sigset_t none, all;
    sigemptyset(&none), sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(&attributes_,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  int start(pid_t& pid, const char* program, char* const* arguments) {
    return posix_spawn(&pid, program, &files_, &attributes_, arguments, environ);
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Result<std::unique_ptr<Child>> Child::start(const ChildOptions& options) {
  std::vector<char*> arguments = {const_cast<char*>(options.program.c_str())};
  for (const std::string& argument : options.arguments)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  Plan plan;
  plan.describe(options.output, options.kept_open);
  pid_t pid = -1;
  if (const int error = plan.start(pid, options.program.c_str(), arguments.data()); error != 0)
    return system_error("start", options.program, error);
  // It has hardly begun, and has no thread yet that would not be meant. Where the system refuses, it runs
  // without.
  errno = 0;
  const int nice = getpriority(PRIO_PROCESS, 0);
  static_cast<void>(setpriority(PRIO_PGRP, static_cast<id_t>(pid), (errno == 0 ? nice : 0) + options.nice));
  if (options.memory_bytes > 0) {
    const rlimit limit = {static_cast<rlim_t>(options.memory_bytes),
                          static_cast<rlim_t>(options.memory_bytes)};
    static_cast<void>(prlimit(pid, RLIMIT_DATA, &limit, nullptr));
  }
  return std::unique_ptr<Child>(new Child(pid));
}

Child::~Child() {
  if (ended()) return;
  signal(SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Child::signal(int number) const {
  if (!ended_) ::kill(pid_, number);
}

std::optional<int> Child::ended() {
  if (ended_) return ended_;
  int status = 0;
  pid_t got;
  do {
    got = waitpid(pid_, &status, WNOHANG);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return {};
  if (got < 0)
    ended_ = -SIGKILL;  // somebody else took its end
  else
    ended_ = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  return ended_;
}

}  // namespace moebius
