<?php
// TLS is spoken by who stands before PHP's own server.
$_SERVER['HTTPS'] = 'on';
$_SERVER['SERVER_PORT'] = (string) parse_url(getenv('SSP_URL'), PHP_URL_PORT);
