#include "server/tls.h"

#include <unistd.h>

#include <openssl/err.h>

#include <fmt/format.h>

namespace moebius {

namespace {

// Nobody is there to type one.
int no_password(char*, int, int, void*) { return 0; }

int choose_http1(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
                 unsigned int in_size, void*) {
  static constexpr unsigned char kHttp1[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  const int found = SSL_select_next_proto(&chosen, out_size, kHttp1, sizeof kHttp1 - 1, in, in_size);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

Status wrong(const std::string& file, const char* what) {
  ERR_clear_error();
  if (::access(file.c_str(), R_OK) != 0)
    return io_error(file + ": cannot be read; check the path and its permissions");
  return invalid(fmt::format("{}: {}", file, what));
}

Result<std::shared_ptr<SSL_CTX>> read(const std::string& certificate_file, const std::string& key_file) {
  const std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (!context) return no_memory("no memory for TLS");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_default_passwd_cb(context.get(), no_password);
  SSL_CTX_set_alpn_select_cb(context.get(), choose_http1, nullptr);
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate_file.c_str()) != 1)
    return wrong(certificate_file, "is not a chain of certificates in PEM");
  if (SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1)
    return wrong(key_file, "is not a private key in PEM, without a password, of the certificate");
  if (SSL_CTX_check_private_key(context.get()) != 1) return wrong(key_file, "is not the certificate's key");
  return context;
}

}  // namespace

Tls::Tls(std::string certificate_file, std::string key_file)
    : certificate_file_(std::move(certificate_file)), key_file_(std::move(key_file)) {}

Result<std::unique_ptr<Tls>> Tls::open(std::string certificate_file, std::string key_file) {
  std::unique_ptr<Tls> tls(new Tls(std::move(certificate_file), std::move(key_file)));
  if (const Status status = tls->reload(); !status.ok()) return status;
  return tls;
}

Status Tls::reload() {
  Result<std::shared_ptr<SSL_CTX>> context = read(certificate_file_, key_file_);
  if (!context.ok()) return context.status();
  std::lock_guard lock(mutex_);
  current_ = *context;
  return {};
}

std::shared_ptr<SSL_CTX> Tls::current() const {
  std::lock_guard lock(mutex_);
  return current_;
}

}  // namespace moebius
