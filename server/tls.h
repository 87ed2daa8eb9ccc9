// Tls: the certificate and key of the server, from files in PEM, read again when asked to.
//
// The HTTP library has a server under TLS of its own, but it shakes hands in a thread for each connection,
// and reads heads before anybody can look at them. Here a connection does both in the waiting room, under the
// same deadline, and the rest of the server does not know of it (server/channel.h).
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include <openssl/ssl.h>

#include "kernels/status.h"

namespace moebius {

class Tls {
 public:
  // TLS 1.2 or later, HTTP/1.1. kIo or kInvalid names the file: not there, not PEM, a key that wants a
  // password or is another certificate's.
  static Result<std::unique_ptr<Tls>> open(std::string certificate_file, std::string key_file);

  // Reads the files again; where that fails what was read before stays.
  Status reload();
  std::shared_ptr<SSL_CTX> current() const;  // for new connections. From any thread

 private:
  Tls(std::string certificate_file, std::string key_file);

  const std::string certificate_file_, key_file_;
  mutable std::mutex mutex_;
  std::shared_ptr<SSL_CTX> current_;
};

}  // namespace moebius
