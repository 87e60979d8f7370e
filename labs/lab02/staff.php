<?php
// The door for the staff of the shop of lab02. It believes what a visitor's cookie says, and thinks that
// a path is safe once it has lost its dots. Never put it on a network.
$db = new SQLite3('/var/lib/shop/shop.db', SQLITE3_OPEN_READONLY);
if (isset($_POST['login'], $_POST['password'])) {
    $known = $db->prepare('SELECT login FROM staff WHERE login = ? AND password = ?');
    $known->bindValue(1, $_POST['login']);
    $known->bindValue(2, $_POST['password']);
    $login = $known->execute()->fetchArray(SQLITE3_NUM)[0] ?? null;
    if ($login) {
        setcookie('badge', base64_encode(json_encode(['login' => $login, 'role' => 'clerk'])));
        header('Location: /staff/');
        exit;
    }
}
$badge = json_decode(base64_decode($_COOKIE['badge'] ?? ''), true);
$login = htmlspecialchars($badge['login'] ?? '');
$role = $badge['role'] ?? '';
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Staff only</title>
<style>
  body { font: 16px/1.5 sans-serif; max-width: 40em; margin: 3em auto; color: #12344d; }
</style>
<h1>Staff only</h1>
<?php if (!$login) { ?>
<form method="post">
  <input name="login" placeholder="Name"> <input name="password" type="password" placeholder="Password">
  <button>Enter</button>
</form>
<?php } elseif ($role !== 'manager') { ?>
<p>Good day, <?= $login ?>. Reports are for managers.
<?php } else { ?>
<p>Good day, <?= $login ?>. Reports: <a href="?report=monday">monday</a>, <a href="?report=tuesday">tuesday</a>
<pre><?php
    if (is_string($report = $_GET['report'] ?? null)) {
        $file = '/var/lib/shop/reports/' . str_replace('../', '', $report);
        echo htmlspecialchars(@file_get_contents($file) ?: "There is no $file");
    }
?></pre>
<?php } ?>
