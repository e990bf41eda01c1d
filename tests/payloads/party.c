/* A party of a dialogue whose arguments are what it does, one after the other; "--" ends them (a validator's own arguments follow). See tests/kernel/parties.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *later;

static void say(int fd, const char *text) {
	char line[4096];
	int size = snprintf(line, sizeof line, "%s\n", text);
	if (write(fd, line, size) != size) { /* whoever asks looks at what the other got */ }
}

static void sleep_ms(long ms) {
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};
	while (nanosleep(&time, &time)) {}
}

/* Read one line, byte by byte: nothing that comes after it is taken. */
static int read_line(char *line, int size) {
	int used = 0;
	for (;;) {
		char byte;
		ssize_t got = read(0, &byte, 1);
		if (got <= 0) return -1;
		if (byte == '\n') break;
		if (used < size - 1) line[used++] = byte;
	}
	line[used] = 0;
	return used;
}

static void on_signal(int number) { (void)number; say(1, later); }
static void *tick(void *ms) { sleep_ms((long)ms); say(1, later); return NULL; }
static void *close_and_sleep(void *ms) { close(1); sleep_ms((long)ms); exit(0); }
static void *hold(void *none) { (void)none; for (;;) pause(); return NULL; }
static void *spin(void *none) { (void)none; for (volatile unsigned long i = 0;; i++) {} return NULL; }

static void start(void *(*function)(void *), void *argument) {
	pthread_t thread;
	if (pthread_create(&thread, NULL, function, argument)) exit(99);
}

int main(int argc, char **argv) {
	static char block[65536], line[4096];
	memset(block, 'x', sizeof block);
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		char *word = argv[i], *value = strchr(word, ':');
		if (value) *value++ = 0;
		long number = value ? strtol(value, NULL, 10) : 0;
#define IS(name) (!strcmp(word, name))
		if (IS("say")) say(1, value);
		else if (IS("part")) { if (write(1, value, strlen(value)) < 0) exit(98); }
		else if (IS("err")) say(2, value);
		else if (IS("line")) { if (read_line(line, sizeof line) < 0) exit(number ? (int)number : 43); }
		else if (IS("expect")) { if (read_line(line, sizeof line) < 0 || strcmp(line, value)) exit(43); }
		else if (IS("end")) { if (read_line(line, sizeof line) >= 0) exit(43); }
		else if (IS("drain")) { while (read(0, block, sizeof block) > 0) {} }
		else if (IS("exit")) exit((int)number);
		else if (IS("kill")) raise((int)number);
		else if (IS("close0")) close(0);
		else if (IS("close1")) close(1);
		else if (IS("loop")) spin(NULL);
		else if (IS("burn")) { clock_t until = clock() + number * (CLOCKS_PER_SEC / 1000); while (clock() < until) {} }
		else if (IS("sleep")) sleep_ms(number);
		else if (IS("pause")) hold(NULL);
		else if (IS("write")) { for (long left = number; left > 0;) { ssize_t put = write(1, block, left < 65536 ? left : 65536); if (put < 0) exit(97); left -= put; } }
		else if (IS("flood")) for (;;) { if (write(1, block, sizeof block) < 0) exit(96); }
		else if (IS("fork")) { if (!fork()) hold(NULL); }
		else if (IS("child")) { if (!fork()) { sleep_ms(number); say(1, "from the child"); _exit(0); } }
		else if (IS("wait")) wait(NULL);
		else if (IS("echo")) { while (read_line(line, sizeof line) >= 0) say(1, line); }
		else if (IS("rounds")) for (long left = number; left; left--) { say(1, "0"); if (read_line(line, sizeof line) < 0) exit(43); }
		else if (IS("later")) later = value;
		else if (IS("tick")) start(tick, (void *)number);
		else if (IS("thread")) start(hold, NULL);
		else if (IS("leave")) { start(close_and_sleep, (void *)number); pthread_exit(NULL); }
		else if (IS("spin")) start(spin, NULL);
		else if (IS("alarm")) { signal(SIGALRM, on_signal); alarm((unsigned)number); }
		else if (IS("sigwait")) {
			sigset_t set;
			int got;
			sigemptyset(&set);
			sigaddset(&set, SIGALRM);
			if (sigprocmask(SIG_BLOCK, &set, NULL)) exit(92);
			alarm((unsigned)number);
			if (sigwait(&set, &got)) exit(92);
		}
		else if (IS("drip")) for (;;) {
			if (write(1, "1", 1) != 1) exit(0);
			sleep_ms(number);
		}
		else if (IS("timer")) {
			struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
			struct itimerspec when = {.it_value = {number / 1000, number % 1000 * 1000000}};
			timer_t timer;
			signal(SIGUSR1, on_signal);
			if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL)) exit(95);
		}
		else if (IS("poll")) { struct pollfd wanted = {.fd = 0, .events = POLLIN}; poll(&wanted, 1, number ? (int)number : -1); }
		else if (IS("epoll")) {
			struct epoll_event event = {.events = EPOLLIN};
			int fd = epoll_create1(0);
			if (epoll_ctl(fd, EPOLL_CTL_ADD, 0, &event)) exit(94);
			if (number) {
				struct itimerspec when = {.it_value = {number / 1000, number % 1000 * 1000000}};
				int timer = timerfd_create(CLOCK_MONOTONIC, 0);
				if (timerfd_settime(timer, 0, &when, NULL) || epoll_ctl(fd, EPOLL_CTL_ADD, timer, &event)) exit(93);
			}
			epoll_wait(fd, &event, 1, -1);
		}
		else if (IS("nonblock")) fcntl(0, F_SETFL, O_NONBLOCK);
		else if (IS("await")) { while (read(0, block, 1) < 0) sleep_ms(1); }
		else if (IS("lock")) { pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; pthread_mutex_lock(&mutex); pthread_mutex_lock(&mutex); }
		else if (IS("note")) {
			char path[4096];
			int last = argc;
			for (int j = i; j < argc; j++) if (!strcmp(argv[j], "--")) last = j;
			if (last + 3 >= argc) exit(92);
			char *name = strtok(value, "=");
			snprintf(path, sizeof path, "%s%s", argv[last + 3], name);
			FILE *file = fopen(path, "w");
			fprintf(file, "%s", name + strlen(name) + 1);
			fclose(file);
		}
		else { fprintf(stderr, "party: unknown word `%s`\n", word); return 91; }
	}
	return 0;
}
