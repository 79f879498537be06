#include "trainer/distributed/watchdog.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "base/log.h"

namespace pocketvlm {

/// What a rank says about itself, as it travels.
struct Watchdog::Report {
  int32_t rank = 0;
  int32_t waiting = 0;
  int32_t finished = 0;
  int32_t pid = 0;
  int64_t arrived = 0;  // collectives
  char host[64] = {};
  char phase[96] = {};
};

struct Watchdog::Peer {
  int socket = -1;
  Report last;
  std::size_t received = 0;  // bytes of the report under way
  char buffer[sizeof(Report)] = {};
  Clock::time_point heard, arrived_at;

  std::string name() const {
    return fmt::format("rank {} (process {} on {})", last.rank, last.pid, last.host);
  }
};

namespace {

constexpr int kConnectTimeoutMs = 2000;  // of one address: those of another network may swallow every packet

/// Whether an interface is known to lead to containers of this machine only.
bool leads_inside(const std::string& interface) {
  for (const char* begin : {"docker", "br-", "virbr", "veth", "cni", "podman", "lxc"}) {
    if (interface.starts_with(begin)) return true;
  }
  return false;
}

/// The addresses of this machine, those that others can reach first; the loopback when it has no other.
std::vector<std::string> own_addresses() {
  std::vector<std::string> found, inside;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return {"127.0.0.1"};
  for (const ifaddrs* item = list; item != nullptr; item = item->ifa_next) {
    const bool usable = item->ifa_addr != nullptr && item->ifa_addr->sa_family == AF_INET &&
                        (item->ifa_flags & IFF_LOOPBACK) == 0 && (item->ifa_flags & IFF_UP) != 0;
    if (!usable) continue;
    char text[INET_ADDRSTRLEN] = {};
    const auto* ip = reinterpret_cast<const sockaddr_in*>(item->ifa_addr);
    if (::inet_ntop(AF_INET, &ip->sin_addr, text, sizeof text) == nullptr) continue;
    (leads_inside(item->ifa_name) ? inside : found).emplace_back(text);
  }
  ::freeifaddrs(list);
  found.insert(found.end(), inside.begin(), inside.end());
  return found.empty() ? std::vector<std::string>{"127.0.0.1"} : found;
}

/// A socket connected to one address, "10.0.0.1:4567"; -1 when nobody answers there.
int connect_to_one(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  if (::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr) != 1) return -1;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  int error = ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 ? 0 : errno;
  pollfd connecting = {fd, POLLOUT, 0};
  if (error == EINPROGRESS && ::poll(&connecting, 1, kConnectTimeoutMs) == 1) {
    socklen_t length = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error == 0 && ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0) return fd;
  ::close(fd);
  return -1;
}

int connect_to(const std::string& address) {
  for (const std::string& one : Watchdog::addresses(address)) {
    if (const int fd = connect_to_one(one); fd >= 0) return fd;
  }
  return -1;
}

void sleep_for(std::chrono::duration<double> time) { std::this_thread::sleep_for(time); }

}  // namespace

int Watchdog::listen(std::string& address) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in any = {};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof any;
  const bool open = fd >= 0 && ::bind(fd, reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0 &&
                    ::listen(fd, 1024) == 0 &&
                    ::getsockname(fd, reinterpret_cast<sockaddr*>(&any), &length) == 0;
  PV_CHECK(open, "the watchdog cannot open a port: {}", std::strerror(errno));
  address = fmt::format("{}:{}", fmt::join(own_addresses(), ","), ntohs(any.sin_port));
  return fd;
}

std::vector<std::string> Watchdog::addresses(const std::string& address) {
  std::vector<std::string> found;
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos) return found;
  std::istringstream hosts(address.substr(0, colon));
  for (std::string host; std::getline(hosts, host, ',');) found.push_back(host + address.substr(colon));
  return found;
}

Watchdog::Watchdog(int rank,
                   int size,
                   double timeout_s,
                   int listener,
                   const std::string& address,
                   std::function<void()> end_job)
    : rank_(rank),
      size_(size),
      timeout_(timeout_s),
      interval_(std::min(1.0, timeout_s / 10)),
      socket_(rank == 0 ? listener : connect_to(address)),
      end_job_(std::move(end_job)) {
  if (socket_ < 0) {
    spdlog::warn("rank {}: the watchdog of rank 0 cannot be reached at {}; a fault here may go unnoticed", rank, address);
    return;
  }
  thread_ = std::thread([this] { work(); });
}

Watchdog::~Watchdog() {
  finish();
  stopped_ = true;
  if (thread_.joinable()) thread_.join();
  if (socket_ >= 0) ::close(socket_);
}

void Watchdog::arrive() {
  arrived_.fetch_add(1);
  ++waiting_;
}

void Watchdog::leave() { --waiting_; }

void Watchdog::phase(const std::string& what) {
  const std::lock_guard lock(mutex_);
  phase_ = what;
}

void Watchdog::finish() { finished_ = true; }

Watchdog::Report Watchdog::own_report() {
  Report report;
  report.rank = rank_;
  report.waiting = waiting_ > 0 ? 1 : 0;
  report.finished = finished_ ? 1 : 0;
  report.pid = static_cast<int32_t>(::getpid());
  report.arrived = arrived_;
  ::gethostname(report.host, sizeof report.host - 1);
  const std::lock_guard lock(mutex_);
  std::strncpy(report.phase, phase_.c_str(), sizeof report.phase - 1);
  return report;
}

void Watchdog::work() {
  if (rank_ == 0) {
    watch_others();
  } else {
    report_to_first();
  }
}

void Watchdog::give_up(const std::string& text) {
  // One write: mpirun may end this process at any moment.
  const std::string line = fmt::format("pocketvlm: {}; the job is ended\n", text);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
  end_job_();
}

void Watchdog::report_to_first() {
  while (true) {
    const Report report = own_report();
    if (::send(socket_, &report, sizeof report, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof report)) {
      if (finished_) return;
      return give_up(fmt::format("rank {}: rank 0 has died or can no longer be reached", rank_));
    }
    if (report.finished != 0) return;
    sleep_for(std::min(interval_, std::chrono::duration<double>(0.2)));
  }
}

void Watchdog::watch_others() {
  std::vector<Peer> peers(static_cast<std::size_t>(size_));  // by rank; the first is this process
  std::vector<Peer> unnamed;                                 // connected, not yet heard of
  const auto begin = Clock::now();
  for (int r = 0; r < size_; ++r) {
    Peer& peer = peers[static_cast<std::size_t>(r)];
    peer.last.rank = r;
    std::strcpy(peer.last.phase, "starting");
    std::strcpy(peer.last.host, "an unknown machine");
    peer.heard = peer.arrived_at = begin;
  }
  const auto receive = [](Peer& peer) {  // -1 closed, 0 nothing whole, 1 a report
    const ssize_t got = ::recv(peer.socket, peer.buffer + peer.received, sizeof(Report) - peer.received, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return -1;
    if (got < 0) return 0;
    peer.received += static_cast<std::size_t>(got);
    if (peer.received < sizeof(Report)) return 0;
    peer.received = 0;
    const int64_t before = peer.last.arrived;
    std::memcpy(&peer.last, peer.buffer, sizeof(Report));
    peer.heard = Clock::now();
    if (peer.last.arrived != before) peer.arrived_at = peer.heard;
    return 1;
  };
  while (!stopped_) {
    for (int fd = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC); fd >= 0;
         fd = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC)) {
      unnamed.emplace_back();
      unnamed.back().socket = fd;
    }
    for (std::size_t i = 0; i < unnamed.size();) {
      if (receive(unnamed[i]) != 1) {
        ++i;
        continue;
      }
      const int32_t r = unnamed[i].last.rank;
      if (r > 0 && r < size_) peers[static_cast<std::size_t>(r)] = unnamed[i];
      unnamed.erase(unnamed.begin() + static_cast<std::ptrdiff_t>(i));
    }
    for (Peer& peer : peers) {
      while (peer.socket >= 0) {
        const int state = receive(peer);
        if (state == 1) continue;
        if (state < 0) {
          ::close(peer.socket);
          peer.socket = -1;
          if (peer.last.finished == 0) {
            return give_up(fmt::format("{} has died; it was last seen {}", peer.name(), peer.last.phase));
          }
        }
        break;
      }
    }
    const int64_t before = peers[0].last.arrived;
    peers[0].last = own_report();
    peers[0].heard = Clock::now();
    if (peers[0].last.arrived != before) peers[0].arrived_at = peers[0].heard;
    judge(peers);
    sleep_for(std::min(interval_, std::chrono::duration<double>(0.05)));
  }
  for (const Peer& peer : peers) {
    if (peer.socket >= 0) ::close(peer.socket);
  }
}

void Watchdog::judge(const std::vector<Peer>& peers) {
  const auto now = Clock::now();
  for (const Peer& peer : peers) {
    if (peer.last.pid == 0) continue;  // has not reported yet, or cannot
    if (peer.last.finished == 0 && now - peer.heard > timeout_) {
      return give_up(fmt::format("{} has not been heard of for {:.0f} s (stopped, or its machine is gone); it was last seen {}",
                                 peer.name(),
                                 timeout_.count(),
                                 peer.last.phase));
    }
  }
  const auto furthest = std::max_element(
      peers.begin(), peers.end(), [](const Peer& a, const Peer& b) { return a.last.arrived < b.last.arrived; });
  if (furthest->last.waiting == 0 || now - furthest->arrived_at < timeout_) return;
  for (const Peer& peer : peers) {
    const bool unknown = peer.last.pid == 0 || peer.last.finished != 0;
    if (unknown || peer.last.arrived >= furthest->last.arrived) continue;
    return give_up(fmt::format("{} is too slow: rank {} and perhaps others have waited for it for {:.0f} s; it is {}",
                               peer.name(),
                               furthest->last.rank,
                               timeout_.count(),
                               peer.last.phase));
  }
}

}  // namespace pocketvlm
