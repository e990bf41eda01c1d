const std = @import("std");
const survey = @import("survey.zig");
const linux = std.os.linux;

var text: [4096]u8 = undefined;
var out: [256]u8 = undefined;
var found: usize = 0;

fn count() void {
    found = survey.primes(20000);
}

fn show(comptime format: []const u8, values: anytype) void {
    const line = std.fmt.bufPrint(&out, format, values) catch unreachable;
    _ = linux.write(1, line.ptr, line.len);
}

fn before(_: void, left: []const u8, right: []const u8) bool {
    return std.mem.order(u8, left, right) == .lt;
}

pub fn main() !void {
    var length: usize = 0;
    while (true) {
        const got = linux.read(0, text[length..].ptr, text.len - length);
        if (got == 0) break;
        length += got;
    }
    const thread = try std.Thread.spawn(.{}, count, .{});
    thread.join();
    show("{d}\n{d}\n", .{ found, survey.sum(5000) });
    var words: [64][]const u8 = undefined;
    var known: usize = 0;
    var each = std.mem.tokenizeAny(u8, text[0..length], " \n");
    while (each.next()) |word| : (known += 1) words[known] = word;
    std.mem.sort([]const u8, words[0..known], {}, before);
    var at: usize = 0;
    while (at < known) {
        var next = at;
        while (next < known and std.mem.eql(u8, words[next], words[at])) next += 1;
        show("{s} {d}\n", .{ words[at], next - at });
        at = next;
    }
}
