// Telling the service manager that started the program how it goes, as sd_notify(3) of systemd describes.
#pragma once

#include <string>

namespace moebius {

// Sends e.g. "READY=1" to a datagram socket: a path, or @NAME for an abstract one; "" does nothing. Nobody is
// told when it fails: the manager then waits for its own time limit.
void notify_manager(const std::string& socket, const std::string& state);

}  // namespace moebius
