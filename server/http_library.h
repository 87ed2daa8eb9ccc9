// cpp-httplib as Debian builds its shared library: with OpenSSL, which changes the layout of Request.
#pragma once

#define CPPHTTPLIB_OPENSSL_SUPPORT
#include <httplib.h>
