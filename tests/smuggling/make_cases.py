"""Writes cases.json: requests whose end a proxy and a server could see in different places, or that a lax parser takes.

    python3 tests/smuggling/make_cases.py > tests/smuggling/cases.json

Expected is what RFC 9112 demands or allows of a recipient that trusts nobody: 200 stands for the answer that the route gives to
the plain request. @METHOD@ and @PATH@ are filled in by the test, and in cases with a body @BODY@ (what the route answers with 200),
@LEN@ (its length), @HEX@ (the same in hexadecimal) and @REST@ (what is to be smuggled: a whole request).
"""
import json

LINE, HOST = "@METHOD@ @PATH@ HTTP/1.1\r\n", "Host: localhost\r\n"
LENGTH, CHUNKED = "Content-Length: @LEN@\r\n", "Transfer-Encoding: chunked\r\n"
CHUNKS = "@HEX@\r\n@BODY@\r\n0\r\n\r\n"
cases = []


def case(name, status, text, body=True, after="@REST@"):
    cases.append({"name": name, "status": status, "body": body, "request": text + after})


def post(name, status, fields, content="@BODY@", line=LINE, host=HOST):
    case(name, status, line + host + fields + "\r\n" + content)


# Plain ones, and what must not disturb them.
post("Content-Length", 200, LENGTH)
post("chunked", 200, CHUNKED, CHUNKS)
post("chunked in two, sizes with zeros", 200, CHUNKED, "1\r\n{\r\n000@HEX1@\r\n@BODY1@\r\n00\r\n\r\n")
post("keep-alive asked for", 200, LENGTH + "Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n")
post("field names in any case", 200, "cOnTeNt-LeNgTh: @LEN@\r\n")
post("spaces around a value", 200, "Content-Length: \t @LEN@ \t\r\n")
post("an upgrade that is not wanted", 200, LENGTH + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")
post("a method to use instead", 200, LENGTH + "X-HTTP-Method-Override: DELETE\r\n")
post("another address to use instead", 200, LENGTH + "X-Original-URL: /metrics\r\nX-Rewrite-URL: /metrics\r\n")

# Two lengths, or an odd one.
post("CL.TE", 400, LENGTH + CHUNKED, "0\r\n\r\n")
post("TE.CL", 400, CHUNKED + "Content-Length: 4\r\n", CHUNKS)
post("CL.CL equal", 400, LENGTH + LENGTH)
post("CL.CL unequal", 400, LENGTH + "Content-Length: 0\r\n")
post("CL list", 400, "Content-Length: @LEN@, @LEN@\r\n")
for name, value in {"plus": "+@LEN@", "minus": "-@LEN@", "hexadecimal": "0x@HEX@", "fraction": "@LEN@.0", "exponent": "1e1", "empty": "",
                    "inner space": "1 0", "underscore": "1_0", "quotes": '"@LEN@"', "huge": "9" * 30, "wraps to 2": str(2**64 + 2),
                    "letters": "@LEN@a", "full-width digit": "\uff12", "form feed": "@LEN@\f", "vertical tab": "\v@LEN@"}.items():
    post(f"CL {name}", 400, f"Content-Length: {value}\r\n")
post("CL beyond the body's limit", 413, "Content-Length: 999999999\r\n")
post("no length", 411, "")
post("CL with a zero, where the body is a request", 400, "Content-Length: 0\r\n", "", LINE)

# Encodings.
for name, value in {"unknown": "xchunked", "list": "gzip, chunked", "twice in a list": "chunked, chunked", "identity": "identity",
                    "chunked, identity": "chunked, identity", "empty": "", "quotes": '"chunked"', "parameter": "chunked;q=1",
                    "trailing comma": "chunked,", "vertical tab": "\vchunked", "NUL": "chunked\0", "null byte inside": "chu\0nked"}.items():
    post(f"TE {name}", 400, f"Transfer-Encoding: {value}\r\n", CHUNKS)
post("TE twice", 400, CHUNKED + CHUNKED, CHUNKS)
post("TE twice, the second hidden", 400, CHUNKED + "Transfer-encoding: cow\r\n", CHUNKS)
post("TE in HTTP/1.0", 400, CHUNKED, CHUNKS, "@METHOD@ @PATH@ HTTP/1.0\r\n")

# Names and lines that parsers disagree about.
post("space before the colon, CL", 400, "Content-Length : @LEN@\r\n")
post("space before the colon, TE", 400, LENGTH + "Transfer-Encoding : chunked\r\n")
post("tab before the colon", 400, LENGTH + "Transfer-Encoding\t: chunked\r\n")
post("space before the name", 400, LENGTH + " Transfer-Encoding: chunked\r\n")
post("folded line", 400, LENGTH + "X-A: b\r\n Transfer-Encoding: chunked\r\n")
post("folded with a tab", 400, LENGTH + "Transfer-Encoding:\r\n\tchunked\r\n")
post("first line folded", 400, " X: y\r\n" + LENGTH)
post("bare LF", 400, LENGTH + "X-A: b\nTransfer-Encoding: chunked\r\n")
post("bare LF at the end of the head", 400, LENGTH[:-2] + "\n")
post("only LF", 400, "X: y\n", line=LINE.replace("\r", ""), host=HOST.replace("\r", ""))
post("bare CR", 400, LENGTH + "X-A: b\rTransfer-Encoding: chunked\r\n")
post("CR CR LF", 400, LENGTH + "X-A: b\r\r\n")
post("NUL in a value", 400, LENGTH + "X-A: b\0Transfer-Encoding: chunked\r\n")
post("NUL in a name", 400, LENGTH + "Transfer\0-Encoding: chunked\r\n")
post("name in quotes", 400, LENGTH + '"Transfer-Encoding": chunked\r\n')
post("no name", 400, LENGTH + ": chunked\r\n")
post("no colon", 400, LENGTH + "Transfer-Encoding chunked\r\n")
post("bytes of UTF-8 in a name", 400, LENGTH + "Transfer-\u00c3\u00a9ncoding: chunked\r\n")
post("DEL in a value", 400, LENGTH + "X-A: b\x7f\r\n")
post("an underscore is another name", 200, LENGTH + "Transfer_Encoding: chunked\r\n")

# Chunks.
for name, chunks in {"hexadecimal prefix": "0x@HEX@\r\n@BODY@\r\n0\r\n\r\n", "plus": "+@HEX@\r\n@BODY@\r\n0\r\n\r\n", "minus": "-1\r\n",
                     "space before": " @HEX@\r\n@BODY@\r\n0\r\n\r\n", "space after": "@HEX@ \r\n@BODY@\r\n0\r\n\r\n",
                     "extension": "@HEX@;a=b\r\n@BODY@\r\n0\r\n\r\n", "extension with a bare LF": "@HEX@;a\n@BODY@\r\n0\r\n\r\n",
                     "bare LF": "@HEX@\n@BODY@\n0\n\n", "no CRLF after the data": "@HEX@\r\n@BODY@0\r\n\r\n", "no size": "\r\n@BODY@\r\n0\r\n\r\n",
                     "wraps to the right size": "1000000000000000@HEX@\r\n@BODY@\r\n0\r\n\r\n", "too many digits": "00000000000@HEX@\r\n@BODY@\r\n0\r\n\r\n",
                     "letters": "zz\r\n", "trailer": "@HEX@\r\n@BODY@\r\n0\r\nContent-Length: 5\r\n\r\n",
                     "end with a bare LF": "@HEX@\r\n@BODY@\r\n0\r\n\n", "CR inside the size": "@HEX@\r@BODY@\r\n0\r\n\r\n"}.items():
    post(f"chunk, {name}", 400, CHUNKED, chunks)

# The request line and the host.
for name, line in {"two spaces": "@METHOD@  @PATH@ HTTP/1.1\r\n", "tab": "@METHOD@\t@PATH@ HTTP/1.1\r\n", "no version": "@METHOD@ @PATH@\r\n",
                   "HTTP/0.9": "@METHOD@ @PATH@ HTTP/0.9\r\n", "HTTP/2.0": "@METHOD@ @PATH@ HTTP/2.0\r\n", "HTTP/1.10": "@METHOD@ @PATH@ HTTP/1.10\r\n",
                   "lower case": "@METHOD@ @PATH@ http/1.1\r\n", "absolute": "@METHOD@ http://evil.example@PATH@ HTTP/1.1\r\n",
                   "a space in the target": "@METHOD@ @PATH@ GET /metrics HTTP/1.1\r\n", "NUL in the target": "@METHOD@ @PATH@\0 HTTP/1.1\r\n",
                   "trailing space": "@METHOD@ @PATH@ HTTP/1.1 \r\n", "empty line first": "\r\n@METHOD@ @PATH@ HTTP/1.1\r\n",
                   "space first": " @METHOD@ @PATH@ HTTP/1.1\r\n", "odd method": "@METHOD@@ @PATH@ HTTP/1.1\r\n",
                   "HTTP/2's preface": "PRI * HTTP/2.0\r\n"}.items():
    post(f"request line, {name}", 400, LENGTH, line=line)
post("no host", 400, LENGTH, host="")
post("two hosts", 400, LENGTH, host=HOST + "Host: evil.example\r\n")
post("the same host twice", 400, LENGTH, host=HOST + HOST)
post("a list of hosts", 400, LENGTH, host="Host: localhost, evil.example\r\n")
post("a host with a path", 400, LENGTH, host="Host: localhost/x\r\n")
post("a host with a user", 400, LENGTH, host="Host: localhost@evil.example\r\n")
post("another host", 403, LENGTH, host="Host: evil.example\r\n")
post("another host, as a number", 403, LENGTH, host="Host: 2130706433\r\n")

# Too much.
post("101 fields", 431, LENGTH + "X-A: b\r\n" * 99 + "X-B: c\r\n")
post("100 fields", 200, LENGTH + "X-A: b\r\n" * 98)
post("a field of 9000 bytes", 431, LENGTH + "X-A: " + "a" * 9000 + "\r\n")
post("a head of 35 KB", 431, LENGTH + ("X-A: " + "a" * 7000 + "\r\n") * 5)
post("an address of 3000 bytes", 414, LENGTH, line="@METHOD@ @PATH@?" + "a" * 3000 + " HTTP/1.1\r\n")
post("a form", 415, LENGTH + "Content-Type: multipart/form-data; boundary=x\r\n")

# Without a body.
def get(name, status, text):
    case(name, status, text, body=False)


GET = LINE + HOST
get("plain", 200, GET + "\r\n")
get("a body that is not read", 200, GET + "Content-Length: 5\r\n\r\nhello")
get("CL.TE", 400, GET + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
get("CL twice", 400, GET + "Content-Length: 0\r\nContent-Length: 44\r\n\r\n")
get("TE hidden", 400, GET + "Transfer-Encoding: x\r\n\r\n")
get("space before the colon", 400, GET + "Content-Length : 44\r\n\r\n")
get("folded line", 400, GET + "X: y\r\n z\r\n\r\n")
get("bare LF", 400, GET + "X: y\n\r\n")
get("absolute target", 400, "@METHOD@ http://localhost@PATH@ HTTP/1.1\r\n" + HOST + "\r\n")
get("another host", 403, LINE + "Host: evil.example\r\n\r\n")
get("a line end in the address, escaped", 404, "@METHOD@ /x%0d%0aHost:%20evil HTTP/1.1\r\n" + HOST + "\r\n")
get("NUL in the address, escaped", 404, "@METHOD@ @PATH@%00x HTTP/1.1\r\n" + HOST + "\r\n")
get("dots in the address", 404, "@METHOD@ /x/..@PATH@ HTTP/1.1\r\n" + HOST + "\r\n")

print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")
