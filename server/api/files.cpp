// /v1/files: upload, list, get, delete and content.
#include <fcntl.h>
#include <unistd.h>

#include "server/api/api.h"
#include "server/files/training_file.h"
#include "server/files/upload_form.h"
#include "server/http_server.h"
#include "server/pages.h"

namespace moebius {

namespace {

class FilesApi {
 public:
  FilesApi(Service& service, FileStore& store, int threads)
      : service_(service), store_(store), threads_(threads) {}

  void create(Exchange& e);
  void list(Exchange& e);
  void get(Exchange& e);
  void erase(Exchange& e);
  void content(Exchange& e);

 private:
  std::optional<ApiError> receive(Exchange& e, UploadForm& form);
  std::optional<ApiError> keep(UploadForm& form, StoredFile& out);
  std::optional<StoredFile> find(Exchange& e);

  Service& service_;
  FileStore& store_;
  const int threads_;
};

std::optional<ApiError> FilesApi::receive(Exchange& e, UploadForm& form) {
  const std::optional<std::string> boundary = form_boundary(e.request.get_header_value(kFormHeader));
  if (!boundary) return bad_request("send a form: multipart/form-data with `file` and `purpose`");
  MultipartReader reader(*boundary, form.calls());
  std::optional<ApiError> error;
  const bool read = (*e.reader)([&](const char* data, size_t size) {
    error = reader.take({data, size});
    return !error;
  });
  if (!error && !read) error = bad_request("the body ended early or is not encoded as its header says");
  if (!error) error = reader.end();
  if (!error) error = form.finish();
  return error;
}

std::optional<ApiError> FilesApi::keep(UploadForm& form, StoredFile& out) {
  if (form.purpose() == "fine-tune") {
    const Result<DatasetCounts> counts =
        check_training_file(service_.engine, form.file().path(), form.filename(), threads_);
    if (!counts.ok()) return bad_request(counts.status().message(), "file", "invalid_file_format");
  }
  return form.file().keep(form.filename(), form.purpose(), form.expires_after_s(), out);
}

void FilesApi::create(Exchange& e) {
  UploadForm form(store_);
  StoredFile file;
  std::optional<ApiError> error = receive(e, form);
  if (!error) error = keep(form, file);
  if (error) return service_.refuse(e, *error);
  service_.log.info("{} 200 {} of {} bytes for {}", e.route.pattern, file.id, file.bytes, file.purpose);
  e.answer(file.json());
}

void FilesApi::list(Exchange& e) {
  const std::vector<StoredFile> files = store_.list(e.request.get_param_value("purpose"));
  const auto at = [&](int64_t i) -> const StoredFile& { return files[static_cast<size_t>(i)]; };
  Json page;
  const auto error = take_page(
      e.request, {.limit = 10'000, .most = 10'000}, std::ssize(files), [&](int64_t i) { return at(i).id; },
      [&](int64_t i) { return at(i).json(); }, page);
  if (error) return service_.refuse(e, *error);
  e.answer(page);
}

// nullopt: answered already.
std::optional<StoredFile> FilesApi::find(Exchange& e) {
  std::optional<StoredFile> file = store_.find(e.arguments[0]);
  if (!file) service_.refuse(e, file_not_found());
  return file;
}

void FilesApi::get(Exchange& e) {
  if (const auto file = find(e)) e.answer(file->json());
}

void FilesApi::erase(Exchange& e) {
  if (!store_.erase(e.arguments[0])) return service_.refuse(e, file_not_found());
  e.answer({{"id", e.arguments[0]}, {"object", "file"}, {"deleted", true}});
}

// An open file stays readable when it is deleted meanwhile.
void FilesApi::content(Exchange& e) {
  const auto file = find(e);
  if (!file) return;
  const int fd = ::open(store_.path_of(*file).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return service_.refuse(e, file_not_found());
  const std::shared_ptr<const int> open(new int(fd), [](const int* owned) {
    ::close(*owned);
    delete owned;
  });
  e.response.set_header("X-Content-Type-Options", "nosniff");
  e.response.set_header("Content-Disposition", "attachment");
  const auto size = static_cast<size_t>(file->bytes);
  if (size == 0) return e.response.set_content("", "application/octet-stream");
  e.response.set_content_provider(
      size, "application/octet-stream", [open](size_t offset, size_t length, httplib::DataSink& sink) {
        std::array<char, 64 << 10> block;
        const ssize_t got =
            ::pread(*open, block.data(), std::min(block.size(), length), static_cast<off_t>(offset));
        return got > 0 && sink.write(block.data(), static_cast<size_t>(got));
      });
}

}  // namespace

void add_without_files(Router& router, Service& service,
                       std::initializer_list<std::pair<const char*, const char*>> routes) {
  const auto refuse = [&service](Exchange& e) {
    service.refuse(
        e, forbidden("this server keeps no files; start it with --files-dir FOLDER", "files_disabled"));
  };
  for (const auto& [method, pattern] : routes) router.add({method, pattern, refuse});
}

void add_file_routes(Router& router, Service& service, FineTuning* tuning) {
  if (tuning == nullptr)
    return add_without_files(router, service,
                             {{"POST", kFilesPath},
                              {"GET", kFilesPath},
                              {"GET", "/v1/files/{id}"},
                              {"DELETE", "/v1/files/{id}"},
                              {"GET", "/v1/files/{id}/content"}});
  const auto api = std::make_shared<FilesApi>(service, tuning->files(), tuning->threads());
  const auto to = [api](void (FilesApi::*handler)(Exchange&)) {
    return [api, handler](Exchange& e) { ((*api).*handler)(e); };
  };
  router.add({"POST", kFilesPath, to(&FilesApi::create)});
  router.get(kFilesPath, to(&FilesApi::list));
  router.get("/v1/files/{id}", to(&FilesApi::get));
  router.add({"DELETE", "/v1/files/{id}", to(&FilesApi::erase)});
  router.get("/v1/files/{id}/content", to(&FilesApi::content));
}

}  // namespace moebius
