// The first message of a client that speaks TLS, and what tells its answer: who
// only wants to know whether there is somebody who speaks TLS needs no more.
#pragma once

#include <string>

namespace engram {

// A ClientHello that offers TLS 1.2 and newer, and HTTP/2. Empty if OpenSSL
// cannot make one.
std::string MakeClientHello();

// Whether what a peer says begins with this byte if it speaks TLS: a handshake,
// or an alert.
bool BeginsTls(char first_byte);

}  // namespace engram
