// Files of clients: forms however they are cut, the store on disk, and /v1/files.
#include <filesystem>

#include <gtest/gtest.h>

#include "server/files/upload_form.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using process::read_file;
using process::Scratch;

struct Part {
  std::string name, filename, data;
  bool operator==(const Part&) const = default;
};

// What a form says, given `step` bytes at a time.
std::optional<ApiError> read_form(const std::string& body, size_t step, std::vector<Part>& parts) {
  MultipartReader reader("XX", {[&](const FormPart& part) -> std::optional<ApiError> {
                                  parts.push_back({part.name, part.filename.value_or("-"), ""});
                                  return {};
                                },
                                [&](std::string_view data) -> std::optional<ApiError> {
                                  parts.back().data += data;
                                  return {};
                                }});
  for (size_t at = 0; at < body.size(); at += step)
    if (auto error = reader.take(std::string_view(body).substr(at, step))) return error;
  return reader.end();
}

std::string part(const std::string& head, const std::string& data) {
  return "--XX\r\n" + head + "\r\n\r\n" + data + "\r\n";
}

TEST(Multipart, SaysTheSameHoweverItIsCut) {
  const std::string named =
      "Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".jsonl\"\r\nContent-Type: "
      "text/plain";
  const std::string body = part("content-disposition: form-data; name=purpose", "fine-tune") +
                           part(named, "one\r\n--X\r\n--Xtwo\r\n\r\n") +
                           part("X: y\r\nContent-Disposition:form-data;name=\"empty\";", "") +
                           "--XX--\r\nrest";
  const std::vector<Part> wanted = {{"purpose", "-", "fine-tune"},
                                    {"file", "a \"b\".jsonl", "one\r\n--X\r\n--Xtwo\r\n\r\n"},
                                    {"empty", "-", ""}};
  for (size_t step = 1; step <= body.size(); ++step) {
    std::vector<Part> parts;
    const auto error = read_form(body, step, parts);
    ASSERT_FALSE(error) << step << " " << error->message;
    EXPECT_EQ(parts, wanted) << step;
  }
}

TEST(Multipart, RefusesWhatIsNoForm) {
  const std::string good = part("Content-Disposition: form-data; name=a", "x");
  const std::vector<std::pair<std::string, const char*>> bad = {
      {"", "ends before"},
      {good, "ends before"},
      {"preamble\r\n" + good + "--XX--", "begin with its boundary"},
      {"--XXY\r\n", "does not end after it"},
      {"--XX\r\n\r\nx\r\n--XX--", "no Content-Disposition"},
      {part("Content-Disposition: form-data", "x") + "--XX--", "no Content-Disposition"},
      {part("Content-Disposition: attachment; name=a", "x") + "--XX--", "no Content-Disposition"},
      {part("Content-Disposition: form-data; name=\"a", "x") + "--XX--", "no Content-Disposition"},
      {"--XX\r\n" + std::string(5000, 'h'), "too long"},
      {"--XX\r\n" + std::string(5000, 'h') + "\r\n\r\n", "too long"}};
  for (const auto& [body, message] : bad) {
    for (const size_t step : {size_t{1}, size_t{100'000}}) {
      std::vector<Part> parts;
      const auto error = read_form(body, step, parts);
      ASSERT_TRUE(error) << body;
      EXPECT_NE(error->message.find(message), std::string::npos) << body << ": " << error->message;
    }
  }
  std::string many;
  for (int i = 0; i < 40; ++i) many += good;
  std::vector<Part> parts;
  EXPECT_TRUE(read_form(many + "--XX--", 7, parts));
}

TEST(Multipart, FindsTheBoundary) {
  EXPECT_EQ(form_boundary("multipart/form-data; boundary=abc"), "abc");
  EXPECT_EQ(form_boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"a b\""), "a b");
  for (const char* wrong :
       {"", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
        "multipart/mixed; boundary=a", "multipart/form-data; boundary=\"a", "multipart/form-data boundary=a",
        "multipart/form-data; "
        "boundary=01234567890123456789012345678901234567890123456789012345678901234567890"})
    EXPECT_FALSE(form_boundary(wrong)) << wrong;
}

TEST(Files, NamesArePlain) {
  EXPECT_EQ(plain_filename("a.jsonl"), "a.jsonl");
  EXPECT_EQ(plain_filename("../../etc/passwd"), "passwd");
  EXPECT_EQ(plain_filename("C:\\x\\y.txt"), "y.txt");
  EXPECT_EQ(plain_filename("a\r\nb\x7f"), "ab");
  EXPECT_EQ(plain_filename(".."), "..");
  EXPECT_EQ(plain_filename("a/"), "file");
  EXPECT_EQ(plain_filename(std::string(254, 'a') + "ää").size(), 254u);
}

// ---- The store

std::unique_ptr<FileStore> opened(const std::string& folder, FileLimits limits = {},
                                  std::function<int64_t()> others = {}) {
  auto store = FileStore::open(folder, limits, std::move(others));
  MOEBIUS_CHECK(store.ok(), store.status().message());
  return std::move(*store);
}

StoredFile added(FileStore& store, const std::string& data, const std::string& purpose = "fine-tune") {
  StoredFile file;
  const auto error = store.add(data, "name.txt", purpose, file);
  EXPECT_FALSE(error) << error->message;
  return file;
}

size_t files_in(const std::string& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(Files, OutliveTheServer) {
  const Scratch scratch;
  const std::string folder = scratch.file("files");
  Json before;
  {
    const auto store = opened(folder);
    added(*store, "first"), added(*store, "second", "batch");
    EXPECT_TRUE(store->erase(added(*store, "third").id));
    for (const StoredFile& file : store->list()) before.push_back(file.json());
  }
  const auto store = opened(folder);
  Json after;
  for (const StoredFile& file : store->list()) after.push_back(file.json());
  EXPECT_EQ(after, before);
  ASSERT_EQ(store->list("batch").size(), 1u);
  EXPECT_EQ(read_file(store->path_of(store->list("batch")[0])), "second");
  EXPECT_FALSE(store->find("file-nothing"));
  EXPECT_FALSE(store->find("../files/" + store->list()[0].id));
  EXPECT_FALSE(store->erase("../../x"));
}

TEST(Files, NothingStaysOfUploadsThatEndEarly) {
  const Scratch scratch;
  const std::string folder = scratch.file("files");
  {
    const auto store = opened(folder, {.file_bytes = 100, .folder_bytes = 250});
    std::unique_ptr<FileStore::Upload> upload;
    ASSERT_FALSE(store->begin(upload));
    EXPECT_FALSE(upload->append(std::string(80, 'a')));
    EXPECT_EQ(upload->append(std::string(40, 'a'))->status, 413);
    upload.reset();
    ASSERT_FALSE(store->begin(upload));
    ASSERT_FALSE(upload->append("abc"));
    ASSERT_FALSE(upload->finish());
    EXPECT_EQ(read_file(upload->path()), "abc");
    EXPECT_TRUE(store->list().empty()) << "not before keep()";
    upload.reset();
    EXPECT_EQ(files_in(folder), 0u);
    added(*store, std::string(100, 'b')), added(*store, std::string(100, 'b'));
    StoredFile none;
    EXPECT_EQ(store->add(std::string(100, 'b'), "x", "batch", none)->code, "quota_exceeded");
    added(*store, std::string(50, 'c'));
    EXPECT_TRUE(store->erase(store->list()[0].id));
    added(*store, std::string(100, 'd'));
  }
  scratch.write("files/file-abc.data", "no json beside it");
  scratch.write("files/file-abd.json.partial-1-0", "half");
  scratch.write("files/file-abe.json", "{\"filename\": 3}");
  scratch.write("files/notes.txt", "somebody's");
  EXPECT_EQ(opened(folder)->list().size(), 3u);
  EXPECT_EQ(files_in(folder), 7u) << "two of each file, and the notes";
}

TEST(Files, ShareTheQuotaWithOthers) {
  const Scratch scratch;
  int64_t others = 60;
  const auto store = opened(scratch.file("files"), {.folder_bytes = 100}, [&] { return others; });
  added(*store, std::string(40, 'a'));
  StoredFile none;
  EXPECT_EQ(store->add("b", "x", "batch", none)->code, "quota_exceeded");
  EXPECT_FALSE(store->is_full());
  others = 61;
  EXPECT_TRUE(store->is_full());
}

TEST(Files, Expire) {
  const Scratch scratch;
  const std::string folder = scratch.file("files");
  std::string id;
  {
    const auto store = opened(folder);
    std::unique_ptr<FileStore::Upload> upload;
    StoredFile file;
    ASSERT_FALSE(store->begin(upload) || upload->append("x") || upload->finish() ||
                 upload->keep("n", "batch", 3600, file));
    EXPECT_EQ(file.expires_at, file.created_us / 1'000'000 + 3600);
    id = file.id;
    EXPECT_TRUE(store->find(id));
  }
  std::string about = read_file(folder + "/" + id + ".json");
  const size_t at = about.find("\"expires_at\":") + 13;
  about.replace(at, about.find_first_of(",}", at) - at, "1000");
  scratch.write("files/" + id + ".json", about);
  const auto store = opened(folder);
  EXPECT_FALSE(store->find(id));
  EXPECT_EQ(files_in(folder), 0u);
}

// ---- Over HTTP

const char* const kLine =
    R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})";

class FilesServer : public ::testing::Test {
 protected:
  static ServerOptions options(const std::string& folder) {
    ServerOptions options;
    options.tuning.folder = folder;
    options.tuning.limits.file_bytes = 1 << 20;
    options.tuning.program = MOEBIUS_BINARY;
    return options;
  }
  httplib::Result upload(const std::string& data, const std::string& purpose = "fine-tune",
                         const httplib::MultipartFormDataItems& more = {}) {
    httplib::MultipartFormDataItems items = more;
    items.push_back({"purpose", purpose, "", ""});
    items.push_back({"file", data, "a.jsonl", "application/octet-stream"});
    return server_.client().Post("/v1/files", items);
  }
  Json uploaded(const std::string& data, const std::string& purpose = "fine-tune") {
    const httplib::Result result = upload(data, purpose);
    EXPECT_EQ(result->status, 200) << result->body;
    return Json::parse(result->body, nullptr, false);
  }
  Json get(const std::string& path) {
    const httplib::Result result = server_.client().Get(path);
    EXPECT_EQ(result->status, 200) << result->body;
    return Json::parse(result->body, nullptr, false);
  }

  Scratch scratch_;
  TestServer server_{options(scratch_.file("files"))};
};

TEST_F(FilesServer, TakesListsAndDeletes) {
  const Json first = uploaded(std::string(kLine) + "\n" + kLine);
  EXPECT_EQ(first["object"], "file");
  EXPECT_EQ(first["filename"], "a.jsonl");
  EXPECT_EQ(first["purpose"], "fine-tune");
  EXPECT_EQ(first["status"], "processed");
  EXPECT_EQ(first["bytes"], 2 * std::string(kLine).size() + 1);
  EXPECT_TRUE(first["expires_at"].is_null());
  const std::string id = first["id"], path = "/v1/files/" + id;
  EXPECT_TRUE(id.starts_with("file-"));
  EXPECT_EQ(get(path), first);
  std::string bytes(300'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + i / 256);
  const Json second = uploaded(bytes, "user_data"), third = uploaded("", "batch");
  EXPECT_EQ(server_.client().Get("/v1/files/" + second["id"].get<std::string>() + "/content")->body, bytes);
  EXPECT_EQ(server_.client().Get("/v1/files/" + third["id"].get<std::string>() + "/content")->body, "");

  EXPECT_EQ(get("/v1/files")["data"], Json::array({third, second, first}));
  EXPECT_EQ(get("/v1/files?purpose=user_data")["data"], Json::array({second}));
  EXPECT_EQ(get("/v1/files?order=asc&limit=1")["data"], Json::array({first}));
  const Json page = get("/v1/files?limit=1&after=" + third["id"].get<std::string>());
  EXPECT_EQ(page["data"], Json::array({second}));
  EXPECT_EQ(page["has_more"], true);
  EXPECT_EQ(page["first_id"], second["id"]);
  EXPECT_EQ(page["last_id"], second["id"]);
  for (const char* wrong :
       {"?limit=0", "?limit=x", "?limit=99999999999999999999", "?order=up", "?after=none"})
    EXPECT_EQ(server_.client().Get(std::string("/v1/files") + wrong)->status, 400) << wrong;

  const httplib::Result deleted = server_.client().Delete(path);
  EXPECT_EQ(deleted->body, R"({"id":")" + id + R"(","object":"file","deleted":true})");
  EXPECT_EQ(server_.client().Get(path)->status, 404);
  EXPECT_EQ(error_code(server_.client().Delete(path)), "file_not_found");
}

TEST_F(FilesServer, ExpiresAsAsked) {
  const Json file = Json::parse(
      upload("x", "batch",
             {{"expires_after[anchor]", "created_at", "", ""}, {"expires_after[seconds]", "3600", "", ""}})
          ->body);
  EXPECT_EQ(file["expires_at"].get<int64_t>(), file["created_at"].get<int64_t>() + 3600);
  for (const char* seconds : {"60", "2592001", "x", "-1"})
    EXPECT_EQ(
        upload("x", "batch",
               {{"expires_after[anchor]", "created_at", "", ""}, {"expires_after[seconds]", seconds, "", ""}})
            ->status,
        400);
  EXPECT_EQ(upload("x", "batch", {{"expires_after[seconds]", "3600", "", ""}})->status, 400);
}

TEST_F(FilesServer, NamesTheFirstBadLine) {
  const std::string good = std::string(kLine) + "\n";
  const std::vector<std::pair<std::string, const char*>> bad = {
      {good + good + "{\"messages\": 3}\n" + "also bad\n", "line 3 of 'a.jsonl': messages is not a list"},
      {good + "[]", "line 2 of 'a.jsonl': is not a JSON object"},
      {"{\"input\": {}}", "line 1 of 'a.jsonl': has none of"},
      {good + "\xff", "line 2 of 'a.jsonl': is not UTF-8"},
      {"", "holds no example"}};
  for (const auto& [data, message] : bad) {
    const httplib::Result result = upload(data);
    EXPECT_EQ(result->status, 400);
    EXPECT_EQ(error_code(result), "invalid_file_format");
    EXPECT_NE(result->body.find(message), std::string::npos) << result->body;
    EXPECT_EQ(result->body.find(scratch_.file("")), std::string::npos) << result->body;
  }
  EXPECT_EQ(upload("not JSON", "batch")->status, 200) << "for another purpose";
}

TEST_F(FilesServer, RefusesByName) {
  EXPECT_EQ(upload(kLine, "fine-tune-results")->status, 400);
  EXPECT_NE(upload(kLine, "x")->body.find("\"param\":\"purpose\""), std::string::npos);
  httplib::Client client = server_.client();
  EXPECT_EQ(client.Post("/v1/files", "{}", "application/json")->status, 400);
  EXPECT_EQ(client.Post("/v1/files", httplib::MultipartFormDataItems{{"purpose", "batch", "", ""}})->status,
            400);
  const httplib::MultipartFormDataItems twice = {
      {"file", "a", "a", ""}, {"file", "b", "b", ""}, {"purpose", "batch", "", ""}};
  EXPECT_EQ(client.Post("/v1/files", twice)->status, 400);
  EXPECT_EQ(error_code(client.Post("/v1/files", "--X\r\n\r\n", "multipart/form-data; boundary=X")),
            "invalid_form");
  EXPECT_EQ(upload(std::string((1 << 20) + 1, 'x'), "batch")->status, 413);
  const auto chunks = [left = 64](size_t, httplib::DataSink& sink) mutable {
    const std::string block =
        "--X\r\nContent-Disposition: form-data; name=file\r\n\r\n" + std::string(1 << 16, 'x');
    if (left-- > 0) return sink.write(block.data(), block.size());
    sink.done();
    return true;
  };
  const auto chunked = client.Post("/v1/files", chunks, "multipart/form-data; boundary=X");
  ASSERT_TRUE(chunked) << httplib::to_string(chunked.error());
  EXPECT_EQ(chunked->status, 413) << "whatever its length is said to be";
  EXPECT_EQ(client.Post("/v1/chat/completions", httplib::MultipartFormDataItems{{"a", "b", "", ""}})->status,
            415);
  EXPECT_EQ(files_in(scratch_.file("files/files")), 0u);

  for (const char* id : {"file-x", "..%2F..%2Fetc%2Fpasswd", "..", "%2e%2e", "file-%00", "lock"}) {
    for (const char* ending : {"", "/content"})
      EXPECT_EQ(client.Get(std::string("/v1/files/") + id + ending)->status, 404) << id << ending;
    EXPECT_EQ(client.Delete(std::string("/v1/files/") + id)->status, 404) << id;
  }
}

TEST(FilesRoutes, SayWhenThereAreNone) {
  TestServer server;
  httplib::Client client = server.client();
  EXPECT_EQ(error_code(client.Get("/v1/files")), "files_disabled");
  EXPECT_NE(client.Get("/v1/files/file-x")->body.find("--files-dir"), std::string::npos);
  EXPECT_EQ(error_code(client.Post("/v1/files", httplib::MultipartFormDataItems{{"a", "b", "", ""}})),
            "files_disabled");
  EXPECT_EQ(error_code(client.Get("/v1/fine_tuning/jobs")), "files_disabled");
  EXPECT_EQ(client.Post("/v1/fine_tuning/jobs/x/pause", "", "application/json")->status, 403);
}

TEST(FilesRoutes, AFolderHasOneServer) {
  const Scratch scratch;
  ServerOptions options;
  options.tuning.folder = scratch.file("files");
  const TestServer first(options);
  spdlog::logger log("test", std::make_shared<spdlog::sinks::null_sink_mt>());
  EngineOptions tiny;
  tiny.model = kModel;
  const auto engine = Engine::open(tiny);
  options.models = {"tiny"};
  const auto second = Server::create(**engine, options, log);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("another server uses"), std::string::npos)
      << second.status().message();
}

}  // namespace
}  // namespace moebius
